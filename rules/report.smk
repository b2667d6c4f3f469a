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
        "--threads {threads} --config {params.settings:q} 2> {log:q}"


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
        settings=lambda w: pipeline.settings("tables"),
        code=pipeline.code("tables"),
        subjects=",".join(pipeline.config.subjects.test),
    shell:
        "exec osgap tables --subjects {params.subjects} --config {params.settings:q} 2> {log:q}"


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
        figure=lambda w: f"person {w.subject}",
        settings=lambda w: pipeline.settings("figure", w.subject),
        code=pipeline.code("figure", pipeline.layout.figure("person_{subject}")),
    shell:
        "exec osgap figure {params.figure} --config {params.settings:q} 2> {log:q}"


use rule person_figure as cross_figure with:
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
    params:
        figure=lambda w: f"cross {w.subject} --driver {pipeline.driver(w.subject)}",
        code=pipeline.code("figure", pipeline.layout.figure("cross_{subject}")),


use rule person_figure as overview with:
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
    params:
        figure="overview " + ",".join(pipeline.config.subjects.test),
        settings=lambda w: pipeline.settings("figure", *pipeline.config.subjects.test),
        code=pipeline.code("figure", pipeline.layout.figure("overview")),


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
        "exec osgap video {wildcards.subject} --config {params.settings:q} 2> {log:q}"
