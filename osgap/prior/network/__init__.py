"""Image to UV attribute maps: encoder, decoder, refiner."""
