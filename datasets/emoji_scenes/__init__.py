"""
The parts of ``make_emoji.py``, from the packages to the data set.

- ``sources``: the packages that hold the drawings, and their licences
- ``categories``: which emojis are categories, and in which order
- ``sprites``: the drawings as they are read; ``cast``: which two of them make a pair
- ``drawing``: how one is put into an image; ``backgrounds``: what is behind it
- ``scenes``: which objects, and where; ``visibility``: whether enough of each is seen
- ``rules``: the numbers that scenes keep to
- ``coco``, ``splits``, ``files``: what is written
- ``parts``: one part of a data set; ``dataset``: all of them
- ``sheets``: pictures to look at what was made
"""
