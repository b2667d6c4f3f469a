# Numbers, tables, figures, videos.


rule evaluate:
    input:
        pipeline.head_files,
        pipeline.layout.capture("{subject}"),
        lambda w: pipeline.avatar_files(w.method, w.subject),
        pipeline.weight_files,
        driver=lambda w: pipeline.layout.capture(pipeline.driver(w.subject)),
    output:
        pipeline.layout.metrics("{method}", "{subject}"),
        pipeline.layout.metrics("{method}", "{subject}").with_suffix(".png"),
    log:
        pipeline.layout.log("evaluate", "{method}", "{subject}"),
    wildcard_constraints:
        method="|".join(METHODS),
    conda:
        "../envs/osgap.yaml"
    threads: 2
    resources:
        mem_mb=8000,
    params:
        settings=lambda w: pipeline.settings("evaluate", w.subject),
        code=pipeline.code("evaluate"),
        driver=lambda w: pipeline.driver(w.subject),
    shell:
        "exec osgap evaluate {wildcards.method} {wildcards.subject} --driver {params.driver} "
        "--threads {threads} --config {params.settings:q} 2> {log}"


rule tables:
    input:
        pipeline.metric_files(pipeline.config.subjects.test),
    output:
        pipeline.layout.summary,
        [path for (_, suffix), path in pipeline.table_files.items() if suffix != "csv"],
        report(
            [
                path
                for (_, suffix), path in pipeline.table_files.items()
                if suffix == "csv"
            ],
            caption="captions/table.rst",
            category="Tables",
        ),
    log:
        pipeline.layout.log("tables"),
    conda:
        "../envs/osgap.yaml"
    params:
        settings=pipeline.settings("tables"),
        code=pipeline.code("tables"),
        subjects=",".join(pipeline.config.subjects.test),
    shell:
        "exec osgap tables --subjects {params.subjects} --config {params.settings:q} 2> {log}"


rule overview:
    input:
        [pipeline.shown_files(s) for s in pipeline.config.subjects.test],
    output:
        report(
            pipeline.layout.figure("overview"),
            caption="captions/figure_overview.rst",
            category="Figures",
            labels={"figure": "overview"},
        ),
    log:
        pipeline.layout.log("figure", "overview"),
    conda:
        "../envs/osgap.yaml"
    params:
        settings=lambda w: pipeline.settings("figure", *pipeline.config.subjects.test),
        code=pipeline.code("figure", pipeline.layout.figure("overview")),
        subjects=",".join(pipeline.config.subjects.test),
    shell:
        "exec osgap figure overview {params.subjects} --config {params.settings:q} 2> {log}"


rule person_figure:
    input:
        lambda w: pipeline.shown_files(w.subject),
    output:
        report(
            pipeline.layout.figure("person_{subject}"),
            caption="captions/figure_person.rst",
            category="Figures",
            labels={"figure": "all methods", "subject": "{subject}"},
        ),
    log:
        pipeline.layout.log("figure", "person_{subject}"),
    conda:
        "../envs/osgap.yaml"
    params:
        settings=lambda w: pipeline.settings("figure", w.subject),
        code=pipeline.code("figure", pipeline.layout.figure("person_{subject}")),
    shell:
        "exec osgap figure person {wildcards.subject} --config {params.settings:q} 2> {log}"


rule cross_figure:
    input:
        lambda w: pipeline.shown_files(w.subject),
        driver=lambda w: pipeline.layout.capture(pipeline.driver(w.subject)),
    output:
        report(
            pipeline.layout.figure("cross_{subject}"),
            caption="captions/figure_cross.rst",
            category="Figures",
            labels={"figure": "cross-reenactment", "subject": "{subject}"},
        ),
    log:
        pipeline.layout.log("figure", "cross_{subject}"),
    conda:
        "../envs/osgap.yaml"
    params:
        settings=lambda w: pipeline.settings("figure", w.subject),
        code=pipeline.code("figure", pipeline.layout.figure("cross_{subject}")),
        driver=lambda w: pipeline.driver(w.subject),
    shell:
        "exec osgap figure cross {wildcards.subject} --driver {params.driver} --config {params.settings:q} 2> {log}"


rule video:
    input:
        lambda w: pipeline.shown_files(w.subject),
    output:
        report(
            pipeline.layout.video("{subject}"),
            caption="captions/video.rst",
            category="Videos",
            labels={"subject": "{subject}"},
        ),
    log:
        pipeline.layout.log("video", "{subject}"),
    conda:
        "../envs/osgap.yaml"
    params:
        settings=lambda w: pipeline.settings("video", w.subject),
        code=pipeline.code("video"),
    shell:
        "exec osgap video {wildcards.subject} --config {params.settings:q} 2> {log}"
