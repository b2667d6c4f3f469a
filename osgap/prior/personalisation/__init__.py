"""Stage `oneshot`: an avatar of an unseen person, from one photograph or more."""
