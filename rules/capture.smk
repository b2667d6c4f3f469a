# From camera files and FLAME tracking to one store per subject.


rule download:
    input:
        lambda w: pipeline.download_sources(w.subject),
    output:
        pipeline.layout.download("{subject}"),
    log:
        pipeline.layout.log("download", "{subject}"),
    conda:
        "../envs/osgap.yaml"
    threads: pipeline.needs("download").threads
    resources:
        **pipeline.resources("download"),
    params:
        subject="{subject}",
        settings=lambda w: pipeline.settings("download", w.subject),
        code=pipeline.code("download"),
    shell:
        "exec osgap download {wildcards.subject} --threads {threads} "
        "--config {params.settings:q} 2> {log:q}"


rule import_tracking:
    input:
        pipeline.head_files,
        tracking=lambda w: pipeline.tracking_files(w.subject),
        raw=lambda w: pipeline.download_of(w.subject),
    output:
        capture=pipeline.layout.capture("{subject}"),
        findings=report(
            pipeline.layout.findings("{subject}"),
            caption="captions/capture.rst",
            category="Captures",
            labels={"subject": "{subject}", "what": "numbers"},
        ),
        sheet=report(
            pipeline.layout.sheet("{subject}"),
            caption="captions/capture.rst",
            category="Captures",
            labels={"subject": "{subject}", "what": "contact sheet"},
        ),
    log:
        pipeline.layout.log("import", "{subject}"),
    cache: pipeline.cached
    conda:
        "../envs/osgap.yaml"
    threads: pipeline.needs("import_tracking").threads
    resources:
        **pipeline.resources("import_tracking"),
    params:
        subject="{subject}",
        sequences=lambda w, output: own_sequences(pipeline.config, w.subject),
        settings=lambda w: pipeline.settings("import", w.subject),
        code=pipeline.code("import"),
    shell:
        "exec osgap import {wildcards.subject} --threads {threads} "
        "--config {params.settings:q} --config {params.sequences:q} 2> {log:q}"
