"""Generated patients whose every answer is known.

phantom        one CT and its label map: layout (what may be drawn), plan (what is), paint
phantom_vqa    PhantomVQA, the benchmark: splits on disk, by patient (files and questions of
               one patient) and language_prior (answers evened out)
captions       reports of a scan, which pretraining reads
tokenizer      the tiny model's tokenizer and the texts that it is trained on
"""
