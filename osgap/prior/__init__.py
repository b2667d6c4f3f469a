"""The network that makes an avatar of a photograph: what it is, how it is trained, how it is made to fit a person."""
