# Numbers, tables, figures, videos.


rule evaluate:
    input:
        pipeline.head_files,
        pipeline.layout.capture("{subject}"),
        lambda w: pipeline.of(w.experiment).avatar_files(w.method, w.subject),
        lambda w: pipeline.of(w.experiment).weight_files,
    output:
        pipeline.pattern.metrics("{method}", "{subject}"),
    log:
        pipeline.pattern.log("evaluate", "{method}", "{subject}"),
    wildcard_constraints:
        method="|".join(METHODS),
    conda:
        "../envs/osgap.yaml"
    threads: pipeline.needs("evaluate").threads
    resources:
        **pipeline.resources("evaluate"),
    params:
        operation=lambda w, output: pipeline.of(w.experiment).operation,
        folders=lambda w, output: pipeline.of(w.experiment).folders,
        settings=lambda w: pipeline.of(w.experiment).settings("evaluate", w.subject),
        code=pipeline.code("evaluate"),
    shell:
        "exec osgap evaluate {wildcards.method} {wildcards.subject} --threads {threads} "
        "--config {params.operation:q} --config {params.settings:q} --folders {params.folders:q} 2> {log:q}"


rule tables:
    input:
        lambda w: pipeline.of(w.experiment).metric_files(pipeline.config.subjects.test),
    output:
        pipeline.pattern.summary,
        [
            path
            for (_, suffix), path in pipeline.pattern.tables.items()
            if suffix != "csv"
        ],
        report(
            [
                path
                for (_, suffix), path in pipeline.pattern.tables.items()
                if suffix == "csv"
            ],
            caption="captions/table.rst",
            category="Tables",
            labels={"experiment": "{experiment}"},
        ),
    log:
        pipeline.pattern.log("tables"),
    conda:
        "../envs/osgap.yaml"
    threads: pipeline.needs("tables").threads
    resources:
        **pipeline.resources("tables"),
    params:
        operation=lambda w, output: pipeline.of(w.experiment).operation,
        folders=lambda w, output: pipeline.of(w.experiment).folders,
        settings=lambda w: pipeline.of(w.experiment).settings("tables"),
        code=pipeline.code("tables"),
        subjects=",".join(pipeline.config.subjects.test),
    shell:
        "exec osgap tables --subjects {params.subjects} --threads {threads} "
        "--config {params.operation:q} --config {params.settings:q} --folders {params.folders:q} 2> {log:q}"


rule person_figure:
    input:
        lambda w: pipeline.of(w.experiment).shown_files(w.subject),
    output:
        report(
            pipeline.pattern.figure("person_{subject}"),
            caption="captions/figure_person.rst",
            category="Figures",
            labels={
                "figure": "all methods",
                "subject": "{subject}",
                "experiment": "{experiment}",
            },
        ),
    log:
        pipeline.pattern.log("figure", "person_{subject}"),
    conda:
        "../envs/osgap.yaml"
    threads: pipeline.needs("person_figure").threads
    resources:
        **pipeline.resources("person_figure"),
    params:
        operation=lambda w, output: pipeline.of(w.experiment).operation,
        folders=lambda w, output: pipeline.of(w.experiment).folders,
        figure=lambda w: f"person {w.subject}",
        settings=lambda w: pipeline.of(w.experiment).settings(
            "figure", w.subject, keys=["report.expressions"]
        ),
        code=pipeline.code("figure", pipeline.pattern.figure("person_{subject}")),
    shell:
        "exec osgap figure {params.figure} --threads {threads} "
        "--config {params.operation:q} --config {params.settings:q} --folders {params.folders:q} 2> {log:q}"


use rule person_figure as cross_figure with:
    input:
        lambda w: pipeline.of(w.experiment).shown_files(w.subject),
        driver=lambda w: pipeline.layout.capture(pipeline.driver(w.subject)),
    output:
        report(
            pipeline.pattern.figure("cross_{subject}"),
            caption="captions/figure_cross.rst",
            category="Figures",
            labels={
                "figure": "cross-reenactment",
                "subject": "{subject}",
                "experiment": "{experiment}",
            },
        ),
    log:
        pipeline.pattern.log("figure", "cross_{subject}"),
    params:
        operation=lambda w, output: pipeline.of(w.experiment).operation,
        folders=lambda w, output: pipeline.of(w.experiment).folders,
        figure=lambda w: f"cross {w.subject} --driver {pipeline.driver(w.subject)}",
        settings=lambda w: pipeline.of(w.experiment).settings(
            "figure", w.subject, keys=["evaluation.cross_frames"]
        ),
        code=pipeline.code("figure", pipeline.pattern.figure("cross_{subject}")),


use rule person_figure as overview with:
    input:
        lambda w: pipeline.of(w.experiment).overview_files,
    output:
        report(
            pipeline.pattern.figure("overview"),
            caption="captions/figure_overview.rst",
            category="Figures",
            labels={"figure": "overview", "experiment": "{experiment}"},
        ),
    log:
        pipeline.pattern.log("figure", "overview"),
    params:
        operation=lambda w, output: pipeline.of(w.experiment).operation,
        folders=lambda w, output: pipeline.of(w.experiment).folders,
        figure="overview " + ",".join(pipeline.config.subjects.test),
        settings=lambda w: pipeline.of(w.experiment).shown_settings(
            "figure", *pipeline.config.subjects.test, keys=["report.expressions"]
        ),
        code=pipeline.code("figure", pipeline.pattern.figure("overview")),


rule video:
    input:
        lambda w: pipeline.of(w.experiment).video_files(w.subject),
    output:
        report(
            pipeline.pattern.video("{subject}"),
            caption="captions/video.rst",
            category="Videos",
            labels={"subject": "{subject}", "experiment": "{experiment}"},
        ),
    log:
        pipeline.pattern.log("video", "{subject}"),
    conda:
        "../envs/osgap.yaml"
    threads: pipeline.needs("video").threads
    resources:
        **pipeline.resources("video"),
    params:
        operation=lambda w, output: pipeline.of(w.experiment).operation,
        folders=lambda w, output: pipeline.of(w.experiment).folders,
        settings=lambda w: pipeline.of(w.experiment).shown_settings("video", w.subject),
        code=pipeline.code("video"),
    shell:
        "exec osgap video {wildcards.subject} --threads {threads} "
        "--config {params.operation:q} --config {params.settings:q} --folders {params.folders:q} 2> {log:q}"


if pipeline.experiments:

    # The experiments of one dataset beside each other.
    rule ablation:
        input:
            pipeline.compared_files,
        output:
            pipeline.layout.ablation_summary,
            [
                path
                for (_, suffix), path in pipeline.layout.ablations.items()
                if suffix != "csv"
            ],
            report(
                [
                    path
                    for (_, suffix), path in pipeline.layout.ablations.items()
                    if suffix == "csv"
                ],
                caption="captions/ablation.rst",
                category="Tables",
                labels={"experiment": "all"},
            ),
        log:
            pipeline.layout.log("ablation"),
        conda:
            "../envs/osgap.yaml"
        threads: pipeline.needs("ablation").threads
        resources:
            **pipeline.resources("ablation"),
        params:
            experiments=lambda w: pipeline.compared,
            subjects=",".join(pipeline.config.subjects.test),
            code=pipeline.code("ablation"),
        shell:
            "exec osgap ablation --experiments {params.experiments:q} --subjects {params.subjects} --threads {threads} "
            "2> {log:q}"
