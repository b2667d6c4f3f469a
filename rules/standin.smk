# Procedural people in the formats of the licensed data: a head model, raw captures, tracking exports.


rule standin_head:
    output:
        pipeline.head_files,
    log:
        pipeline.layout.log("standin-head"),
    conda:
        "../envs/osgap.yaml"
    params:
        settings=pipeline.settings("standin-head"),
        code=pipeline.code("standin-head"),
    shell:
        "exec osgap standin-head --config {params.settings:q} 2> {log}"


rule standin_person:
    input:
        pipeline.head_files,
    output:
        pipeline.layout.standin_person("{subject}"),
    log:
        pipeline.layout.log("standin-person", "{subject}"),
    conda:
        "../envs/osgap.yaml"
    threads: 2
    params:
        settings=pipeline.settings("standin-person"),
        code=pipeline.code("standin-person"),
    shell:
        "exec osgap standin-person {wildcards.subject} --threads {threads} --config {params.settings:q} 2> {log}"
