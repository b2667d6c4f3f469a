# One person's Gaussians, from all of their training frames; then the same as UV maps.


rule fit:
    input:
        pipeline.head_files,
        pipeline.layout.capture("{subject}"),
    output:
        pipeline.layout.fit("{subject}") / "point_cloud.ply",
        pipeline.layout.fit("{subject}") / "flame_param.npz",
        pipeline.layout.fit("{subject}") / "fit.json",
        report(
            pipeline.layout.fit("{subject}") / "preview.png",
            caption="captions/fit.rst",
            category="Fits",
            labels={"subject": "{subject}"},
        ),
    log:
        pipeline.layout.log("fit", "{subject}"),
    conda:
        "../envs/osgap.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime="12h",
    params:
        settings=pipeline.settings("fit"),
        code=pipeline.code("fit"),
    shell:
        "exec osgap fit {wildcards.subject} --threads {threads} --config {params.settings:q} 2> {log}"


rule bake:
    input:
        pipeline.head_files,
        pipeline.layout.fit("{subject}") / "point_cloud.ply",
    output:
        pipeline.layout.uv_gt("{subject}"),
    log:
        pipeline.layout.log("bake", "{subject}"),
    conda:
        "../envs/osgap.yaml"
    params:
        settings=pipeline.settings("bake"),
        code=pipeline.code("bake"),
    shell:
        "exec osgap bake {wildcards.subject} --config {params.settings:q} 2> {log}"
