# One person's Gaussians, from all of their training frames; then the same as UV maps. Either may be adopted from another
# program (`interop` in the config).


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
    wildcard_constraints:
        subject=pipeline.one_of(
            s
            for s in pipeline.config.subjects.all
            if s not in pipeline.adopted_avatars
        ),
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


rule adopt_avatar:
    input:
        pipeline.head_files,
        pipeline.layout.capture("{subject}"),
        lambda w: pipeline.adopted_avatars[w.subject],
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
        pipeline.layout.log("adopt-avatar", "{subject}"),
    wildcard_constraints:
        subject=pipeline.one_of(pipeline.adopted_avatars),
    conda:
        "../envs/osgap.yaml"
    resources:
        mem_mb=8000,
    params:
        # A function, because braces in a text would be filled in.
        settings=lambda w: pipeline.settings("adopt-avatar"),
        code=pipeline.code("adopt-avatar"),
    shell:
        "exec osgap adopt-avatar {wildcards.subject} --config {params.settings:q} 2> {log}"


rule bake:
    input:
        pipeline.head_files,
        pipeline.layout.fit("{subject}") / "point_cloud.ply",
    output:
        pipeline.layout.uv_gt("{subject}"),
    log:
        pipeline.layout.log("bake", "{subject}"),
    wildcard_constraints:
        subject=pipeline.one_of(
            s for s in pipeline.config.subjects.all if s not in pipeline.adopted_maps
        ),
    conda:
        "../envs/osgap.yaml"
    params:
        settings=pipeline.settings("bake"),
        code=pipeline.code("bake"),
    shell:
        "exec osgap bake {wildcards.subject} --config {params.settings:q} 2> {log}"


rule adopt_maps:
    input:
        pipeline.head_files,
        lambda w: pipeline.adopted_maps[w.subject],
    output:
        pipeline.layout.uv_gt("{subject}"),
    log:
        pipeline.layout.log("adopt-maps", "{subject}"),
    wildcard_constraints:
        subject=pipeline.one_of(pipeline.adopted_maps),
    conda:
        "../envs/osgap.yaml"
    params:
        # A function, because braces in a text would be filled in.
        settings=lambda w: pipeline.settings("adopt-maps"),
        code=pipeline.code("adopt-maps"),
    shell:
        "exec osgap adopt-maps {wildcards.subject} --config {params.settings:q} 2> {log}"
