# The network that turns an image into UV maps, trained on every train subject.


rule train:
    input:
        pipeline.head_files,
        [pipeline.layout.capture(s) for s in pipeline.config.subjects.train],
        [pipeline.layout.uv_gt(s) for s in pipeline.config.subjects.train],
        lambda w: pipeline.of(w.experiment).prior_files,
    output:
        pipeline.pattern.prior / "model.pt",
        pipeline.pattern.prior / "mean_uv.npz",
        pipeline.pattern.prior / "train.json",
        report(
            pipeline.pattern.prior / "preview.png",
            caption="captions/prior.rst",
            category="Prior",
            labels={"experiment": "{experiment}"},
        ),
    log:
        pipeline.pattern.log("train"),
    conda:
        "../envs/osgap.yaml"
    threads: lambda w: pipeline.of(w.experiment).needs("train").threads
    resources:
        **pipeline.resources("train"),
    params:
        launcher=lambda w, threads: pipeline.of(w.experiment).launcher(threads),
        operation=lambda w, output: pipeline.of(w.experiment).operation,
        folders=lambda w, output: pipeline.of(w.experiment).folders,
        settings=lambda w: pipeline.of(w.experiment).settings("train"),
        code=pipeline.code("train"),
        subjects=",".join(pipeline.config.subjects.train),
    shell:
        "exec {params.launcher}osgap train --subjects {params.subjects} --threads {threads} "
        "--config {params.operation:q} --config {params.settings:q} --folders {params.folders:q} 2> {log:q}"
