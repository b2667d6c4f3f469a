"""Head models in FLAME's format: loading, skinning, triangle frames, parts and UV texels."""
