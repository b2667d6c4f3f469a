"""Look at a capture: does the head that is claimed stand where the images show it?

A sample of frames of every camera and sequence is compared with the posed head (`measures`): its silhouette with the
mask, and the colours on its skin with those that other cameras and moments show there. Where all of it does not fit,
what is known to go wrong is tried (`causes`, `swaps`); where a few frames, a camera or a moment do not, they are named.
"""

from __future__ import annotations

from collections.abc import Sequence

from osgap.capture.sanity.case import Case
from osgap.capture.sanity.claims import Claim, claim_of, head_height, surface_of
from osgap.capture.sanity.findings import Findings
from osgap.capture.sanity.judgement import (
    Judgement,
    blind_cameras,
    frame_findings,
    judged,
    misfit_cameras,
    places,
    summaries,
    unlike_cameras,
)
from osgap.capture.sanity.measures import (
    Evidence,
    Key,
    Measures,
    evidence_of,
    measure,
)
from osgap.capture.sanity.samples import Sample, chosen_frames, read_samples, reduced_size
from osgap.capture.tracking.recording import Recording
from osgap.head.model import HeadModel


def inspect(recording: Recording, head: HeadModel, subject: str, samples: Sequence[Sample] | None = None) -> Findings:
    """Compare a sample of frames of every camera and sequence with the posed head. Raises nothing for what it finds.

    Args:
        recording: a tracked capture; its frames are read from their files.
        head: the model that it was tracked with.
        subject: the person, for the report.
        samples: of `chosen_frames`, where they have been read.
    """
    if samples is None:
        samples = read_samples(recording, chosen_frames(recording))
    surface = surface_of(head)
    evidence = evidence_of(samples, surface, head_height(head, recording, surface))
    claim = claim_of(recording, head, sorted({sample.timestep for sample in samples}))
    measures = measure(claim, evidence)
    judgements = judged(samples, measures)
    case = Case(recording, head, claim, evidence, _of_most(claim, evidence, measures, judgements), judgements)
    case.cameras = misfit_cameras(measures) | case.doubled() | blind_cameras(samples)
    case.unlike = {c: why for c, why in unlike_cameras(measures).items() if c not in case.cameras}
    cause = case.cause(samples)
    cameras = {recording.serials[c]: reason for c, reason in case.cameras.items()} if cause else {}
    outliers = () if cause else tuple(sorted(k for k, j in judgements.items() if j.verdict == "wrong"))
    frames = frame_findings(judgements, measures, recording.width / reduced_size(recording)[0])
    moments = [timestep.sequence for timestep in recording.timesteps]
    sequences = list(dict.fromkeys(moments))
    measured = [*case.measures.exceeding(), *case.unfollowed(), places(frames, recording.serials, moments)]
    said = "; ".join(part for part in measured if part)
    return Findings(
        subject=subject,
        frames=frames,
        cameras=summaries(frames, recording.serials, lambda frame: recording.serials[frame.camera], cameras),
        sequences=summaries(frames, sequences, lambda frame: recording.timesteps[frame.timestep].sequence, {}),
        shift=tuple(round(float(value), 4) for value in measures.motion[:3]),  # type: ignore[arg-type]
        scale=round(1 + float(measures.motion[6]), 4),
        cause=f"{cause[0]} Measured: {said or 'single cameras alone'}." if cause else None,
        correction=cause[1] if cause else None,
        warnings=() if cause else tuple(case.warnings()),
        outliers=outliers,
    )


def _of_most(claim: Claim, evidence: Evidence, measures: Measures, judgements: dict[Key, Judgement]) -> Measures:
    """The measures without frames and cameras that do not fit where the others do, if these are most."""
    cameras = misfit_cameras(measures)
    kept = [key for key in evidence.fields if judgements[key].verdict != "wrong" and key[1] not in cameras]
    if len(kept) == len(evidence.fields) or len(kept) < 0.5 * len(judgements):
        return measures
    return measure(claim, evidence.only(kept))
