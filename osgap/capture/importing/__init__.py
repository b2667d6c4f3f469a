"""The stage `import`: a recording, looked at and written to one capture store."""
