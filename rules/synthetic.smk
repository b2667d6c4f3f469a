# Procedural people in the formats of the licensed data: a head model, raw captures, tracking exports. The config names
# them by the ordinary keys, so that the other rules cannot tell.


rule synthetic_head:
    output:
        pipeline.layout.synthetic_head.files,
    log:
        pipeline.layout.log("synthetic-head"),
    conda:
        "../envs/osgap.yaml"
    threads: pipeline.needs("synthetic_head").threads
    resources:
        **pipeline.resources("synthetic_head"),
    params:
        settings=lambda w: pipeline.settings("synthetic-head"),
        code=pipeline.code("synthetic-head"),
    shell:
        "exec osgap synthetic-head --threads {threads} "
        "--config {params.settings:q} 2> {log:q}"


rule synthetic_person:
    input:
        pipeline.head_files,
    output:
        pipeline.layout.synthetic_person("{subject}"),
    log:
        pipeline.layout.log("synthetic-person", "{subject}"),
    conda:
        "../envs/osgap.yaml"
    threads: pipeline.needs("synthetic_person").threads
    resources:
        **pipeline.resources("synthetic_person"),
    params:
        subject="{subject}",
        settings=lambda w: pipeline.settings("synthetic-person", w.subject),
        code=pipeline.code("synthetic-person"),
    shell:
        "exec osgap synthetic-person {wildcards.subject} --threads {threads} "
        "--config {params.settings:q} 2> {log:q}"
