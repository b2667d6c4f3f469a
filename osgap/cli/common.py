"""What all commands take, and the application that they register with."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from osgap.workflow.pipeline import Pipeline

Subject = Annotated[str, tyro.conf.Positional]
"""Name of a subject in the config."""


@dataclass(frozen=True)
class Common:
    """What every stage takes."""

    config: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """YAML file, or inline JSON that starts with `{`. May be repeated: later ones win, key by key.
    Default is config.yaml."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE, such as fit.iterations=300. May be repeated; wins over every --config."""
    experiment: str | None = None
    """One of the config's experiments. Default is the config as it stands."""
    folders: str | None = None
    """Where below the results folder the parts of an experiment lie, as JSON: what a rule tells its job, whose config
    is that of the experiment already."""
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-j"])] = None
    """Threads of the numerical libraries. Default is theirs: one per core."""
    traceback: bool = False
    """Show where in the code an error was raised."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The config's files and texts, in the order in which later ones win."""
        return self.config or ("config.yaml",)

    def limit_threads(self) -> None:
        """Before the libraries load."""
        if self.threads is not None:
            for variable in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
                os.environ[f"{variable}_NUM_THREADS"] = str(self.threads)

    def pipeline(self) -> Pipeline:
        """Limit threads, read the config, and tell the stages what concerns none of their results.

        That is where they compute, what was accepted in the results folder, and what upgrades mean.
        """
        self.limit_threads()
        from osgap.runtime import gpus, upgrades
        from osgap.runtime.acceptance import look_through
        from osgap.workflow.config import load_config
        from osgap.workflow.layout import Layout
        from osgap.workflow.pipeline import Pipeline
        from osgap.workflow.settings import OPERATION_VARIABLE

        told = os.environ.get(OPERATION_VARIABLE)  # by the Snakemake whose job this is
        config = load_config([*([told] if told else []), *self.sources], self.set)
        layout = Layout(config.results, json.loads(self.folders)) if self.folders else None
        pipeline = Pipeline(config, layout=layout).run(self.experiment)
        look_through(pipeline.layout.accepted)
        gpus.use(pipeline.config.accelerator)
        upgrades.use(pipeline.config.upgrades)
        return pipeline


Options = tyro.conf.OmitArgPrefixes[Common]

app = tyro.extras.SubcommandApp()
