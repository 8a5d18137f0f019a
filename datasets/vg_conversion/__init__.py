"""
The parts of ``make_visual_genome.py``, from Visual Genome's files to COCO's.

- ``reader``: Visual Genome's files, and what of COCO's is needed, object by object
- ``vocabulary``: which synsets are categories, and in which order
- ``boxes``: what becomes an annotation, and why the rest does not
- ``parts``: which image is for training
- ``writer``: COCO files that grow as they are read
- ``conversion``: all of it, and the account of what was dropped
"""
