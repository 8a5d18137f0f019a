"""
The numbers that the scenes keep to.

All lengths are in pixels of a 128 x 128 image and scale with the image.
"""

REFERENCE_SIZE = 128
MIN_IMAGE_SIZE = 64
SINGLE_SIDE = (28.0, 64.0)  # the longer side of the box
PAIR_SIDE = (42.0, 68.0)  # the parts that are seen of a smaller pair would be too small to tell
BOX_JITTER = 1.5
SLIVER = 2  # what is narrower than this does not count as a visible part
MIN_AREA = 60.0

NUM_GROUPS = (2, 4)  # of a pair or a single
PAIR_SHARE = 0.5  # of the groups
MIN_PAIR_IOU = 0.8  # of the two visible boxes
MIN_VISIBLE = 0.3  # of the area of the object behind, in a pair
MIN_VISIBLE_SINGLE = 0.6
MAX_OVERLAP = 0.3  # of the boxes of two groups, as a share of the smaller one
MAX_STRETCH = 1.3  # of an object's sides, to fit its partner's box
MAX_TILT = 22.0  # degrees
PERSPECTIVE = 0.07  # how far the corners move, as a share of the sides
MIN_CONTRAST = 18.0  # RGB levels between an object and what is around it
