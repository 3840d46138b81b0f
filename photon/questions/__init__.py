"""What is asked: records on disk, prompts, and questions made from label maps.

record        a question, read from and written to JSON lines (swift: ms-swift's layout)
prompts       a record as token ids
from_masks    questions with verified answers from a scan and its label map, by
              measure (voxels -> scene), candidates, spatial and change (scene -> all that can
              be asked), templates and label_names (the words)
fill_store    prepare all scans that files of questions name
check_files   verify files of questions and the scans that they name
"""
