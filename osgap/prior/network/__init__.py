"""The networks: a photograph to maps of Gaussians (encoder, decoder), and a rendering to a better one (refiner)."""
