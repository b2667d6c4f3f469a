# A person whom the prior never saw, from one photograph.


rule oneshot:
    input:
        pipeline.head_files,
        pipeline.layout.capture("{subject}"),
        pipeline.layout.prior / "model.pt",
    output:
        pipeline.layout.oneshot("{subject}") / "point_cloud.ply",
        pipeline.layout.oneshot("{subject}") / "flame_param.npz",
        pipeline.layout.oneshot("{subject}") / "prior" / "point_cloud.ply",
        pipeline.layout.oneshot("{subject}") / "prior" / "flame_param.npz",
        pipeline.layout.oneshot("{subject}") / "oneshot.json",
        report(
            pipeline.layout.oneshot("{subject}") / "preview.png",
            caption="captions/oneshot.rst",
            category="One-shot avatars",
            labels={"subject": "{subject}"},
        ),
    log:
        pipeline.layout.log("oneshot", "{subject}"),
    conda:
        "../envs/osgap.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime="1h",
    params:
        settings=lambda w: pipeline.settings("oneshot", w.subject),
        code=pipeline.code("oneshot"),
    shell:
        "exec osgap oneshot {wildcards.subject} --threads {threads} --config {params.settings:q} 2> {log}"
