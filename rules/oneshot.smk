# A person whom the prior never saw, from one photograph (folder oneshot) or more (few_shot, all_frames).


rule calibrate:
    input:
        pipeline.head_files,
        lambda w: [
            pipeline.layout.capture(subject)
            for subject in pipeline.of(w.experiment).config.calibration_people
        ],
        lambda w: pipeline.of(w.experiment).layout.prior / "model.pt",
    output:
        pipeline.pattern.calibration("{folder}"),
    log:
        pipeline.pattern.log("calibrate", "{folder}"),
    wildcard_constraints:
        folder=pipeline.one_of(pipeline.calibrated),
    conda:
        "../envs/osgap.yaml"
    threads: pipeline.needs("calibrate").threads
    resources:
        **pipeline.resources("calibrate"),
    params:
        operation=lambda w, output: pipeline.of(w.experiment).operation,
        folders=lambda w, output: pipeline.of(w.experiment).folders,
        settings=lambda w: pipeline.of(w.experiment).settings(
            "calibrate", supervision=pipeline.personalised[w.folder]
        ),
        code=pipeline.code("calibrate"),
        supervision=lambda w: pipeline.personalised[w.folder],
        subjects=lambda w: ",".join(pipeline.of(w.experiment).config.calibration_people),
    shell:
        "exec osgap calibrate --supervision {params.supervision} --subjects {params.subjects} --threads {threads} "
        "--config {params.operation:q} --config {params.settings:q} --folders {params.folders:q} 2> {log:q}"


rule oneshot:
    input:
        pipeline.head_files,
        pipeline.layout.capture("{subject}"),
        lambda w: pipeline.of(w.experiment).layout.prior / "model.pt",
        lambda w: pipeline.of(w.experiment).calibration_of(w.folder),
    output:
        pipeline.pattern.oneshot("{subject}", "{folder}") / "point_cloud.ply",
        pipeline.pattern.oneshot("{subject}", "{folder}") / "flame_param.npz",
        pipeline.pattern.oneshot("{subject}", "{folder}") / "prior" / "point_cloud.ply",
        pipeline.pattern.oneshot("{subject}", "{folder}") / "prior" / "flame_param.npz",
        pipeline.pattern.oneshot("{subject}", "{folder}") / "oneshot.json",
        report(
            pipeline.pattern.oneshot("{subject}", "{folder}") / "preview.png",
            caption="captions/oneshot.rst",
            category="One-shot avatars",
            labels={
                "subject": "{subject}",
                "supervision": "{folder}",
                "experiment": "{experiment}",
            },
        ),
    log:
        pipeline.pattern.log("{folder}", "{subject}"),
    wildcard_constraints:
        folder=pipeline.one_of(pipeline.personalised),
    conda:
        "../envs/osgap.yaml"
    threads: pipeline.needs("oneshot").threads
    resources:
        **pipeline.resources("oneshot"),
    params:
        operation=lambda w, output: pipeline.of(w.experiment).operation,
        folders=lambda w, output: pipeline.of(w.experiment).folders,
        settings=lambda w: pipeline.of(w.experiment).settings(
            "oneshot", w.subject, supervision=pipeline.personalised[w.folder]
        ),
        code=pipeline.code("oneshot"),
        supervision=lambda w: pipeline.personalised[w.folder],
        # Who is calibrated on is not among this job's settings, so it is told the file.
        calibration=lambda w: [
            f"--calibration={file}"
            for file in pipeline.of(w.experiment).calibration_of(w.folder)
        ],
    shell:
        "exec osgap oneshot {wildcards.subject} --supervision {params.supervision} {params.calibration:q} "
        "--threads {threads} "
        "--config {params.operation:q} --config {params.settings:q} --folders {params.folders:q} 2> {log:q}"
