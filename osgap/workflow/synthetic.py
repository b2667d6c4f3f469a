"""Synthetic people before the first job: the config must name what will be made as it will be called.

Past that they are data like anybody's. The config names their head model, raw captures and tracking exports by the
ordinary keys, and `Pipeline.makes` knows that they need not be there yet.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from osgap.capture.download.sources import local_folder
from osgap.runtime.errors import UserError
from osgap.synthetic.captures.tracking import union_folder
from osgap.workflow.pipeline import Pipeline


def check_synthetic(pipeline: Pipeline) -> None:
    """Whether a config with a section `synthetic` names the files that the run makes, and no others.

    Raises:
        UserError: naming the key, and what to write there.
    """
    if pipeline.config.synthetic is None:
        return
    config, layout = pipeline.config, pipeline.layout
    if config.flame.assets != layout.synthetic_head:
        found = ", ".join(map(str, config.flame.assets.files)) if config.flame.assets else "nothing"
        files = ", ".join(f"{role}: {path}" for role, path in layout.synthetic_head)
        raise _differs("flame.assets", found, f"{{{files}}}")
    if pipeline.downloads:
        folder = local_folder(pipeline.url) if pipeline.url else None
        if folder is None or folder.resolve() != layout.synthetic_nersemble.resolve():
            found = "another place" if pipeline.url else "nothing"  # it may be a secret
            raise _differs("capture.url", found, str(layout.synthetic_nersemble))
    for subject in config.subjects.all:
        made = str(union_folder(layout.synthetic_tracking(subject), subject, pipeline.sequences(subject)))
        named = pipeline.entry(subject).tracking or config.capture.tracking
        found = pipeline.tracking_pattern(subject) if named else "nothing"
        if found != made and not fnmatchcase(made, found):
            raise _differs(f"capture.tracking of subject {subject}", found, made)


def _differs(key: str, found: str, made: str) -> UserError:
    return UserError(
        f"{key}: found {found}, but with a section `synthetic` the run makes {made}; write that, or leave the section "
        f"out"
    )
