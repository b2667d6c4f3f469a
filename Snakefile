from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from osgap.runtime.errors import UserError
from osgap.evaluation.methods import METHODS
from osgap.workflow.pipeline import Pipeline

min_version("9.20")


configfile: "config.yaml"


try:
    pipeline = Pipeline.for_snakemake(config, workflow)
except UserError as error:
    raise WorkflowError(str(error)) from None


report: "rules/captions/workflow.rst"


wildcard_constraints:
    subject=r"[A-Za-z0-9_-]+",
    sequence=r"[^/]+",


rule all:
    input:
        pipeline.targets,


if pipeline.synthetic:

    include: "rules/synthetic.smk"


include: "rules/capture.smk"
include: "rules/fit.smk"
include: "rules/prior.smk"
include: "rules/oneshot.smk"
include: "rules/report.smk"
