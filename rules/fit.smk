# One person's Gaussians, from all of their training frames; then the same as UV maps. Either may be adopted from another
# program (`interop` in the config).


rule fit:
    input:
        pipeline.head_files,
        pipeline.layout.capture("{subject}"),
    output:
        avatar=pipeline.layout.fit("{subject}") / "point_cloud.ply",
        motion=pipeline.layout.fit("{subject}") / "flame_param.npz",
        metrics=pipeline.layout.fit("{subject}") / "fit.json",
        preview=report(
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
    cache: pipeline.cached
    conda:
        "../envs/osgap.yaml"
    threads: pipeline.needs("fit").threads
    resources:
        **pipeline.resources("fit"),
    params:
        stage="fit",
        settings=lambda w: pipeline.settings("fit"),
        code=pipeline.code("fit"),
    shell:
        "exec osgap {params.stage} {wildcards.subject} --threads {threads} "
        "--config {params.settings:q} 2> {log:q}"


use rule fit as adopt_avatar with:
    input:
        pipeline.head_files,
        pipeline.layout.capture("{subject}"),
        lambda w: pipeline.adopted_avatars[w.subject],
    log:
        pipeline.layout.log("adopt-avatar", "{subject}"),
    wildcard_constraints:
        subject=pipeline.one_of(pipeline.adopted_avatars),
    cache: False
    threads: pipeline.needs("adopt_avatar").threads
    resources:
        **pipeline.resources("adopt_avatar"),
    params:
        stage="adopt-avatar",
        settings=lambda w: pipeline.settings("adopt-avatar"),
        code=pipeline.code("adopt-avatar"),


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
    cache: pipeline.cached
    conda:
        "../envs/osgap.yaml"
    threads: pipeline.needs("bake").threads
    resources:
        **pipeline.resources("bake"),
    params:
        stage="bake",
        settings=lambda w: pipeline.settings("bake"),
        code=pipeline.code("bake"),
    shell:
        "exec osgap {params.stage} {wildcards.subject} --threads {threads} "
        "--config {params.settings:q} 2> {log:q}"


use rule bake as adopt_maps with:
    input:
        pipeline.head_files,
        lambda w: pipeline.adopted_maps[w.subject],
    log:
        pipeline.layout.log("adopt-maps", "{subject}"),
    wildcard_constraints:
        subject=pipeline.one_of(pipeline.adopted_maps),
    cache: False
    threads: pipeline.needs("adopt_maps").threads
    resources:
        **pipeline.resources("adopt_maps"),
    params:
        stage="adopt-maps",
        settings=lambda w: pipeline.settings("adopt-maps"),
        code=pipeline.code("adopt-maps"),
