"""2D images and video frames beside volumes.

kinds        kind_of, locate         what a path holds: volume, image or video
reading      read_image              file -> uint8 [H, W, 3]
video        read_video              file, folder or list of frames -> sampled frames
preparation  ImagePreparation        sizes and sampling, `smart_resize`
store        ImageStore              prepared images on disk, beside the volumes
"""
