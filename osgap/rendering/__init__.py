"""Clips: an avatar under any motion and any camera path, as a video or as frames.

`stage` is `osgap render`, `settings` what it is told and `checks` what it refuses. `motion` says what the avatar does
in each frame; `cameras`, `camera_paths` and `keyframes` say where it is seen from. `sequence` renders many frames (its
`frames` is the function for notebooks); `output` says where they go, and `writers` writes while the next are rendered.
"""
