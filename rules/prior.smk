# The network that turns an image into UV maps, trained on every train subject.


rule train:
    input:
        pipeline.head_files,
        [pipeline.layout.capture(s) for s in pipeline.config.subjects.train],
        [pipeline.layout.uv_gt(s) for s in pipeline.config.subjects.train],
        pipeline.prior_files,
    output:
        pipeline.layout.prior / "model.pt",
        pipeline.layout.prior / "mean_uv.npz",
        pipeline.layout.prior / "train.json",
        report(
            pipeline.layout.prior / "preview.png",
            caption="captions/prior.rst",
            category="Prior",
        ),
    log:
        pipeline.layout.log("train"),
    conda:
        "../envs/osgap.yaml"
    threads: 8
    resources:
        mem_mb=32000,
        runtime="48h",
    params:
        settings=lambda w: pipeline.settings("train"),
        code=pipeline.code("train"),
        subjects=",".join(pipeline.config.subjects.train),
    shell:
        "exec osgap train --subjects {params.subjects} --threads {threads} --config {params.settings:q} 2> {log:q}"
