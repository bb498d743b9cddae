"""The eleven tables."""

from __future__ import annotations

from securedl.datasets import tables
from securedl.datasets.source import File, Source, Variant

_CC_BY = "CC BY 4.0"
_UCI = "https://archive.ics.uci.edu/"
_DOI = "https://doi.org/10.24432/"

_SPAM_WORDS = """make address all 3d our over remove internet order mail receive will people report addresses
    free business email you credit your font 000 money hp hpl george 650 lab labs telnet 857 data 415 85
    technology 1999 parts pm direct cs meeting original project re edu table conference"""
_CLIMATE = """vconst_corr vconst_2 vconst_3 vconst_4 vconst_5 vconst_7 ah_corr ah_bolus slm_corr
    efficiency_factor tidal_mix_max vertical_decay_scale convect_corr bckgrnd_vdc1 bckgrnd_vdc_ban
    bckgrnd_vdc_eq bckgrnd_vdc_psim Prandtl"""
_WINE = """alcohol malic_acid ash alcalinity_of_ash magnesium total_phenols flavanoids nonflavanoid_phenols
    proanthocyanins color_intensity hue od280_od315_of_diluted_wines proline"""
_CELL = """radius texture perimeter area smoothness compactness concavity concave_points symmetry
    fractal_dimension"""


def _uci(number: int, slug: str, *older: str) -> tuple[File, ...]:
    old = tuple(f"{_UCI}ml/machine-learning-databases/{number:05}/{name}" for name in older)
    return (File(f"{slug}.zip", (f"{_UCI}static/public/{number}/{slug}.zip", *old)),)


TABLES = (
    Source(
        name="breast_tissue",
        title="Breast Tissue, electrical impedance",
        sample=(9,),
        features=("I0", "PA500", "HFS", "DA", "Area", "A_DA", "Max_IP", "DR", "P"),
        classes=("adi", "car", "con", "fad", "gla", "mas"),
        licence=_CC_BY,
        citation="J. Marques de Sa, J. Jossinet: Breast Tissue, UCI 192 (2010)",
        page=f"{_DOI}C5P31H",
        files=_uci(192, "breast+tissue", "BreastTissue.xls"),
        parse=tables.breast_tissue,
        variants=(
            Variant(
                "breast_tissue",
                "breast_tissue.csv.gz",
                106,
                digest="a36c9199d76e4823502d73147669745c45b0dd62586108c1b7922cde8126b58b",
            ),
        ),
    ),
    Source(
        name="crabs",
        title="Leptograpsus crabs, label is the sex",
        sample=(6,),
        features=("species_orange", "FL", "RW", "CL", "CW", "BD"),
        classes=("female", "male"),
        licence="GPL-2 or GPL-3 (R package MASS)",
        citation="N. A. Campbell, R. J. Mahon: Aust. J. Zool. 22, 417 (1974)",
        page="https://doi.org/10.1071/ZO9740417",
        files=(File("crabs.csv", ("https://vincentarelbundock.github.io/Rdatasets/csv/MASS/crabs.csv",)),),
        parse=tables.crabs,
        variants=(
            Variant(
                "crabs",
                "crabs.csv.gz",
                200,
                digest="bba4d25e84688ded5c441681bf3cc5310fbd79c37d4e775c168ef822e3e827d2",
            ),
        ),
    ),
    Source(
        name="ovarian",
        title="Ovarian cancer, 100 SELDI-TOF ion intensities",
        sample=(100,),
        features=tuple(f"ion{i:03}" for i in range(1, 101)),
        classes=("normal", "cancer"),
        licence="none stated: MATLAB users only",
        citation="T. P. Conrads et al.: Endocr. Relat. Cancer 11, 163 (2004); file by The MathWorks",
        page="https://doi.org/10.1677/erc.0.0110163",
        files=(File("ovarian_dataset.csv"),),
        parse=tables.ovarian,
        by_hand=(
            "It has no public licence: the 100 intensities were selected by The MathWorks from FDA-NCI data "
            "and ship with MATLAB's Deep Learning Toolbox. In MATLAB run [x,t] = ovarian_dataset; "
            "writematrix([x' t'], 'ovarian_dataset.csv')"
        ),
        variants=(
            Variant(
                "ovarian",
                "ovarian.csv.gz",
                216,
                digest="65758087bfd9969204b37c643bbc19c28af308a19c1661c4f0ebb1064a817349",
            ),
        ),
    ),
    Source(
        name="wine",
        title="Wine, chemical analysis of three cultivars",
        sample=(13,),
        features=tuple(_WINE.split()),
        classes=("cultivar 1", "cultivar 2", "cultivar 3"),
        licence=_CC_BY,
        citation="S. Aeberhard, M. Forina: Wine, UCI 109 (1991)",
        page=f"{_DOI}C5PC7J",
        files=_uci(109, "wine"),
        parse=tables.wine,
        variants=(
            Variant(
                "wine",
                "wine.csv.gz",
                178,
                digest="c5869d35c0506e066d550660b1e4363158758d7789c860a723d6f2e2e4b20300",
                embedded="load_wine",
            ),
        ),
    ),
    Source(
        name="climate_crashes",
        title="Climate model simulation crashes",
        sample=(18,),
        features=tuple(_CLIMATE.split()),
        classes=("failure", "success"),
        licence=_CC_BY,
        citation="D. D. Lucas et al.: Geosci. Model Dev. 6, 1157 (2013)",
        page=f"{_DOI}C5HG71",
        files=_uci(252, "climate+model+simulation+crashes", "pop_failures.dat"),
        parse=tables.climate,
        variants=(
            Variant(
                "climate_crashes",
                "climate_crashes.csv.gz",
                540,
                digest="7d6fbc0f9841982eeb94ed2021189d91b9570b3349d2bedbe9d6efb055ec0c9e",
            ),
        ),
    ),
    Source(
        name="fertility",
        title="Fertility, life habits and semen quality",
        sample=(9,),
        features=(
            "season",
            "age",
            "childish_diseases",
            "accident_or_trauma",
            "surgical_intervention",
            "high_fevers",
            "alcohol",
            "smoking",
            "hours_sitting",
        ),
        classes=("normal", "altered"),
        licence=_CC_BY,
        citation="D. Gil, J. L. Girela: Fertility, UCI 244 (2012)",
        page=f"{_DOI}C5Z01Z",
        files=_uci(244, "fertility"),
        parse=tables.fertility,
        variants=(
            Variant(
                "fertility",
                "fertility.csv.gz",
                100,
                digest="54aa5d58474a0492861f7e077e544ce143c1c09f111df5e61f0715b6901546d4",
            ),
        ),
    ),
    Source(
        name="wdbc",
        title="Breast Cancer Wisconsin (Diagnostic)",
        sample=(30,),
        features=tuple(f"{kind}_{what}" for kind in ("mean", "error", "worst") for what in _CELL.split()),
        classes=("malignant", "benign"),
        licence=_CC_BY,
        citation="W. Wolberg et al.: Breast Cancer Wisconsin (Diagnostic), UCI 17 (1995)",
        page=f"{_DOI}C5DW2B",
        variants=(
            Variant(
                "wdbc",
                "wdbc.csv.gz",
                569,
                digest="b874872b81dfcb2824541b484db11724b7ad8e4be4bcf516b5e6d16624253fe8",
                embedded="load_breast_cancer",
            ),
        ),
    ),
    Source(
        name="iris",
        title="Iris, in R's and Fisher's numbers",
        sample=(4,),
        features=("sepal_length", "sepal_width", "petal_length", "petal_width"),
        classes=("setosa", "versicolor", "virginica"),
        licence=_CC_BY,
        citation="R. A. Fisher: Ann. Eugenics 7, 179 (1936), UCI 53",
        page=f"{_DOI}C56C76",
        variants=(
            Variant(
                "iris",
                "iris.csv.gz",
                150,
                digest="9444af256e5ec17f9a7adbfcbd9705085465c223f3d20616d7d0c1e05a404e1e",
                embedded="load_iris",
            ),
        ),
    ),
    Source(
        name="optdigits",
        title="Optical recognition of handwritten digits",
        sample=(64,),
        features=tuple(f"px{i:02}" for i in range(64)),
        classes=tuple("0123456789"),
        licence=_CC_BY,
        citation="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI 80 (1998)",
        page=f"{_DOI}C50P49",
        files=_uci(80, "optical+recognition+of+handwritten+digits"),
        parse=tables.optdigits,
        variants=(
            Variant(
                "optdigits",
                "optdigits.csv.gz",
                5620,
                3823,
                digest="059d5265591318d4e76d0ea14e06aad9496cbda20d5778defdeb702b0c01057a",
            ),
            # The official test part alone, for those who ask for it: nobody should get a third unawares.
            Variant(
                "digits",
                "digits.csv.gz",
                1797,
                digest="814ee0c267782b7881a40d31a1f25f1ccebccc16e302baf9c98058b4fe5f5fb1",
                embedded="load_digits",
                automatic=False,
            ),
        ),
    ),
    Source(
        name="pima",
        title="Pima Indians diabetes; zeros stand for missing values",
        sample=(8,),
        features=(
            "pregnancies",
            "glucose",
            "blood_pressure",
            "skin_thickness",
            "insulin",
            "bmi",
            "diabetes_pedigree",
            "age",
        ),
        classes=("negative", "positive"),
        licence="CC0, not confirmed",
        citation="J. W. Smith et al.: Proc. Symp. Comput. Appl. Med. Care, 261 (1988); OpenML 37",
        page="https://www.openml.org/d/37",
        files=(
            File(
                "dataset_37_diabetes.arff",
                ("https://www.openml.org/data/download/37/dataset_37_diabetes.arff",),
            ),
        ),
        parse=tables.pima,
        variants=(
            Variant(
                "pima",
                "pima_diabetes.csv.gz",
                768,
                digest="7361b09e236aa718d655d5bb046e3e741a07b56acaabe3aeb2ec50172c5cb001",
            ),
        ),
    ),
    Source(
        name="spambase",
        title="Spambase, counts of words in mail",
        sample=(57,),
        features=(
            *(f"word_freq_{word}" for word in _SPAM_WORDS.split()),
            *(f"char_freq_{c}" for c in ";([!$#"),
            *(f"capital_run_length_{what}" for what in ("average", "longest", "total")),
        ),
        classes=("mail", "spam"),
        licence=_CC_BY,
        citation="M. Hopkins et al.: Spambase, UCI 94 (1999)",
        page=f"{_DOI}C53G6X",
        files=_uci(94, "spambase"),
        parse=tables.spambase,
        variants=(
            Variant(
                "spambase",
                "spambase.csv.gz",
                4601,
                digest="8d6b199fa9b49fb3badfcc43dd202b031e8d1bb36196e834350208ed5b0fd9fa",
            ),
        ),
    ),
)
