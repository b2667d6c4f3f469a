# A person whom the prior never saw, from one photograph (folder oneshot) or more (few_shot, all_frames).


rule oneshot:
    input:
        pipeline.head_files,
        pipeline.layout.capture("{subject}"),
        pipeline.layout.prior / "model.pt",
    output:
        pipeline.layout.oneshot("{subject}", "{folder}") / "point_cloud.ply",
        pipeline.layout.oneshot("{subject}", "{folder}") / "flame_param.npz",
        pipeline.layout.oneshot("{subject}", "{folder}") / "prior" / "point_cloud.ply",
        pipeline.layout.oneshot("{subject}", "{folder}") / "prior" / "flame_param.npz",
        pipeline.layout.oneshot("{subject}", "{folder}") / "oneshot.json",
        report(
            pipeline.layout.oneshot("{subject}", "{folder}") / "preview.png",
            caption="captions/oneshot.rst",
            category="One-shot avatars",
            labels={"subject": "{subject}", "supervision": "{folder}"},
        ),
    log:
        pipeline.layout.log("{folder}", "{subject}"),
    wildcard_constraints:
        folder=pipeline.one_of(pipeline.personalised),
    conda:
        "../envs/osgap.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime="1h",
    params:
        settings=lambda w: pipeline.settings(
            "oneshot", w.subject, supervision=pipeline.personalised[w.folder]
        ),
        code=pipeline.code("oneshot"),
        supervision=lambda w: pipeline.personalised[w.folder],
    shell:
        "exec osgap oneshot {wildcards.subject} --supervision {params.supervision} "
        "--threads {threads} --config {params.settings:q} 2> {log:q}"
