"""Tables, figures and videos of a run."""
