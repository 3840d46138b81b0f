"""A model and a data set of the real configuration at a size that trains in seconds."""

# 16 visual tokens a volume, a decoder of 4 layers, 8 phantoms.
SMALL = (
    "model.pretrained=null",
    "callbacks.pruning={soft:0.2,hard:0.4,flip:0.45}",
    "model.text={hidden_size:128,num_hidden_layers:4,num_attention_heads:2,intermediate_size:128}",
    "model.vision={hidden_size:80,num_heads:1,intermediate_size:96,out_hidden_size:128}",
    "model.preparation={spacing:[6.0,6.0,6.0],crop:[56,56,56],size:[56,56,56]}",
    "pruner.hidden=16",
    "dataset.volumes_per_batch=2",
    "dataset.questions_per_volume=6",
    "dataset.workers=0",
)
SMALL_PHANTOMS = (
    "dataset.n_train=6",
    "dataset.n_val=0",
    "dataset.n_test=2",
    "dataset.written=8",
)
