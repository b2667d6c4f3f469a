"""Does the head that is claimed stand where the images show it?"""
