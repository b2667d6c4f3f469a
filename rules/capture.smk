# From camera files and FLAME tracking to one store per subject.


rule download:
    input:
        lambda w: pipeline.download_sources(w.subject),
    output:
        pipeline.layout.download("{subject}", "{sequence}"),
    log:
        pipeline.layout.log("download", "{subject}", "{sequence}"),
    conda:
        "../envs/osgap.yaml"
    params:
        settings=lambda w: pipeline.settings("download", w.subject),
        code=pipeline.code("download"),
    shell:
        "exec osgap download {wildcards.subject} {wildcards.sequence:q} --config {params.settings:q} 2> {log:q}"


rule import_tracking:
    input:
        pipeline.head_files,
        tracking=lambda w: pipeline.tracking_files(w.subject),
        raw=lambda w: pipeline.downloads_of(w.subject),
    output:
        pipeline.layout.capture("{subject}"),
    log:
        pipeline.layout.log("import", "{subject}"),
    conda:
        "../envs/osgap.yaml"
    resources:
        mem_mb=4000,
    params:
        settings=lambda w: pipeline.settings("import", w.subject),
        code=pipeline.code("import"),
    shell:
        "exec osgap import {wildcards.subject} --config {params.settings:q} 2> {log:q}"
