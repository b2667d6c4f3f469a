"""Look at a capture: does the head that is claimed stand where the images show it?"""

from __future__ import annotations

from osgap.capture.sanity.findings import Findings
from osgap.capture.tracking.recording import Recording
from osgap.head.model import HeadModel


def inspect(recording: Recording, head: HeadModel, subject: str) -> Findings:
    """Compare a sample of frames of every camera and sequence with the posed head. Raises nothing for what it finds."""
    raise NotImplementedError
