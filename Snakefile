import time

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.utils import min_version

from osgap.runtime.errors import UserError
from osgap.evaluation.methods import METHODS
from osgap.operations.causes import causes
from osgap.workflow.launch import prepare
from osgap.workflow.settings import own_sequences
from osgap.workflow.start import begin

min_version("9.20")
started = time.time()


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


onerror:
    for line in causes(pipeline.layout.results, started):
        logger.error(line)


wildcard_constraints:
    subject=r"[A-Za-z0-9_-]+",
    experiment=pipeline.places,


rule all:
    input:
        pipeline.targets,


# Every rule calls one `osgap` command. Two of its parameters decide, beside its inputs, when it runs again: `settings`,
# the part of the config that decides its result, and `code`, a digest of the modules that it imports. `settings` is JSON,
# and always a function, because Snakemake would take the braces of a text for wildcards. Rules of what follows the fits
# have the wildcard `experiment`, which is empty for the config as it stands.
if pipeline.config.synthetic is not None:

    include: "rules/synthetic.smk"


include: "rules/capture.smk"
include: "rules/fit.smk"
include: "rules/prior.smk"
include: "rules/oneshot.smk"
include: "rules/report.smk"
