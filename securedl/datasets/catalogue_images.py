"""The four sets of images."""

from __future__ import annotations

from securedl.datasets import images
from securedl.datasets.source import File, Source, Variant

_SIGNS = (
    "Speed limit 20", "Speed limit 30", "Speed limit 50", "Speed limit 60", "Speed limit 70",
    "Speed limit 80", "End of speed limit 80", "Speed limit 100", "Speed limit 120", "No passing",
    "No passing for vehicles over 3.5 t", "Right-of-way at next intersection", "Priority road", "Yield",
    "Stop", "No vehicles", "Vehicles over 3.5 t prohibited", "No entry", "General caution",
    "Dangerous curve left", "Dangerous curve right", "Double curve", "Bumpy road", "Slippery road",
    "Road narrows on the right", "Road work", "Traffic signals", "Pedestrians", "Children crossing",
    "Bicycles crossing", "Beware of ice/snow", "Wild animals crossing",
    "End of all speed and passing limits", "Turn right ahead", "Turn left ahead", "Ahead only",
    "Go straight or right", "Go straight or left", "Keep right", "Keep left", "Roundabout mandatory",
    "End of no passing", "End of no passing by vehicles over 3.5 t",
)  # fmt: skip
_SIGN_COUNTS = (
    270, 2940, 3000, 1860, 2640, 2490, 570, 1890, 1860, 1950, 2670, 1740, 2790, 2880, 1050, 840, 570, 1470,
    1590, 270, 450, 420, 510, 660, 360, 1980, 780, 300, 690, 360, 600, 1050, 300, 899, 540, 1590, 510, 270,
    2760, 390, 450, 300, 330,
)  # fmt: skip


IMAGES = (
    Source(
        name="mnist",
        title="MNIST handwritten digits",
        sample=(28, 28),
        classes=tuple("0123456789"),
        licence="commonly stated CC BY-SA 3.0",
        citation="Y. LeCun et al.: Proc. IEEE 86, 2278 (1998)",
        page="http://yann.lecun.com/exdb/mnist/",
        files=tuple(
            File(
                f"{name}-ubyte.gz",
                (
                    f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}-ubyte.gz",
                    f"http://yann.lecun.com/exdb/mnist/{name}-ubyte.gz",
                ),
                f"md5:{md5}",
            )
            for name, md5 in (
                ("train-images-idx3", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                ("train-labels-idx1", "d53e105ee54ea40749a09fcbcd1e9432"),
                ("t10k-images-idx3", "9fb629c4189551a2d022fa330f9573f3"),
                ("t10k-labels-idx1", "ec29112dd5afa0611ce80d1b7f02629c"),
            )
        ),
        parse=images.mnist,
        variants=(
            Variant(
                "mnist",
                "mnist.npz",
                70000,
                60000,
                digest="369af2966edd2cea54e2a198c68434ff2197ee2d3504dfdd9e8d2e2cb66e76cf",
            ),
        ),
    ),
    Source(
        name="cifar10",
        title="CIFAR-10, small colour images",
        sample=(32, 32, 3),
        classes=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        licence="none stated; cite the report",
        citation="A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images (2009)",
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        files=(
            File(
                "cifar-10-binary.tar.gz",
                ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                "md5:c32a1d4ab5d03f1284b67883e8d87530",
                200 << 20,
            ),
        ),
        parse=images.cifar10,
        variants=(
            Variant("cifar10", "cifar10.npz", 60000, 50000, counts=(6000,) * 10),
            Variant(
                "cifar10_subset",
                "cifar10_subset.npz",
                12000,
                10000,
                digest="5c17363b2348dc2e244a7cdc4bd0ca0692c3df9b86b3092443f7b78eb4c8cfee",
            ),
        ),
    ),
    Source(
        name="gtsrb",
        title="German traffic signs, resized to 32 x 32",
        sample=(32, 32, 3),
        classes=_SIGNS,
        licence="free for use; CC0, not confirmed",
        citation="J. Stallkamp et al.: Neural Networks 32, 323 (2012)",
        page="https://benchmark.ini.rub.de/gtsrb_dataset.html",
        files=tuple(
            File(
                name,
                (f"https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/{name}",),
                f"md5:{md5}",
                400 << 20,
            )
            for name, md5 in (
                ("GTSRB_Final_Training_Images.zip", "f33fd80ac59bff73c82d25ab499e03a3"),
                ("GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185"),
                ("GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
            )
        ),
        parse=images.gtsrb,
        variants=(
            Variant("gtsrb", "gtsrb.npz", 51839, 39209, counts=_SIGN_COUNTS),
            Variant(
                "gtsrb_subset",
                "gtsrb_subset.npz",
                7826,
                6020,
                digest="0ca46398c18067d243d05aff1b26d46f481a2ab546991903408c303f4afe64dc",
            ),
        ),
    ),
    Source(
        name="orl_faces",
        title="AT&T / ORL faces, images 9 and 10 of each are the test part",
        sample=(112, 92),
        classes=tuple(f"s{i}" for i in range(1, 41)),
        licence="research use; credit AT&T Laboratories Cambridge",
        citation="F. Samaria, A. Harter: Proc. IEEE Workshop Appl. Comput. Vision (1994)",
        page="https://cam-orl.co.uk/facedatabase.html",
        files=(
            File(
                "att_faces.zip",
                ("https://www.cl.cam.ac.uk/Research/DTG/attarchive/pub/data/att_faces.zip",),
            ),
        ),
        parse=images.orl,
        variants=(
            Variant(
                "orl_faces",
                "orl_faces.npz",
                400,
                320,
                digest="84bda72481c5e91e8e1ac14af2e127b1e5a83baeb5b4c487e0470da56b7274dd",
            ),
        ),
    ),
)
