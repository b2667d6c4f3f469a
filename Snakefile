from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from osgap.runtime.errors import UserError
from osgap.evaluation.methods import METHODS
from osgap.workflow.launch import prepare
from osgap.workflow.pipeline import table_files
from osgap.workflow.start import begin

min_version("9.20")


configfile: "config.yaml"
configfile: "profiles/slurm/site.yaml"


try:
    pipeline = prepare(config, workflow)
except UserError as error:
    raise WorkflowError(str(error)) from None


report: "rules/captions/workflow.rst"


onstart:
    try:
        begin(pipeline, workflow)
    except UserError as error:
        raise WorkflowError(str(error)) from None


wildcard_constraints:
    subject=r"[A-Za-z0-9_-]+",
    experiment=pipeline.places,


rule all:
    input:
        pipeline.targets,


# Every rule calls one `osgap` command. Two of its parameters decide, beside its inputs, when it runs again: `settings`,
# the part of the config that it uses, and `code`, a digest of the modules that it imports. `settings` is JSON, and
# always a function, because Snakemake would take the braces of a text for wildcards.
if pipeline.config.synthetic is not None:

    include: "rules/synthetic.smk"


include: "rules/capture.smk"
include: "rules/fit.smk"
include: "rules/prior.smk"
include: "rules/oneshot.smk"
include: "rules/report.smk"
