"""The stage `bake`: a fitted avatar as UV attribute maps."""
