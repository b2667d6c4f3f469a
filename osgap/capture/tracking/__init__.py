"""The stage `import`: FLAME tracking and frames to one capture store."""
