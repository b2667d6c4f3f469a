"""Whether an avatar is closed: what shows through inside the head's silhouette, as a number, a loss and a repair."""
