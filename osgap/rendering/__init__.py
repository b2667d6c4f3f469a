"""Clips: an avatar under any motion and any camera path, as a video or as frames.

`motion` says what the avatar does in each frame, `cameras` and `keyframes` where it is seen from, `frames` renders (the
function for notebooks), `pictures` writes while the next frames are rendered, and `stage` is `osgap render`.
"""
