"""From a graph to a plan, pass by pass: fuse, forms, layout, levels (with cost), lower, check."""
