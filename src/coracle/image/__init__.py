"""Images: names, documents, the content store, layers, archives.

reference   the grammar of image names                        ┐ cheap to import: `run` uses them
index       which images exist and how they are found         │
ready       what `run` needs of one image                     │
snapshot    a container's own directories over the layers     │
removal     deleting trees safely                             ┘
manifest, config     documents from outside, checked
content              blobs, and unfinished work (ingest)
compression, tar_reader, tree, lower, layer    a layer archive becomes a directory
tar_writer, diff     and a directory becomes an archive
unpack               a manifest's layers become lower directories, once
load, save, rootfs, changes    docker-archive, oci-archive, OCI layouts, plain root file systems
images, collect      the verbs: list, tag, remove, inspect, history, prune
"""
