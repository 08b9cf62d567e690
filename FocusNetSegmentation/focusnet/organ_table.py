"""The data of the organ catalogue: one row per organ, or per pair of organs.

Names follow AAPM TG-263. Codes are SNOMED CT concepts of the DICOM context groups or of the HL7 mapping of TG-263 to
SNOMED CT; the two eye segments carry the code of the whole eye, since no narrower concept could be verified.
Tolerances are those of Nikolov et al., arXiv:1809.04430 (2.5 mm slices). Volume ranges are wide bounds for the
whole organ of an adult in ml; they were set from published norms and widened to hold clinical contours.
"""

from typing import NamedTuple

Colour = tuple[int, int, int]


class Row(NamedTuple):
    """One organ, or a pair when ``tg263`` holds ``{}`` for the side's letter.

    Attributes:
        stem: Key without the side.
        name: Human name without the side.
        tg263: TG-263 name.
        code: SNOMED CT concept.
        meaning: Meaning of the concept as DICOM writes it.
        colours: RGB of the organ, or of the left and the right one.
        volume_range_ml: Least and greatest plausible volume of one whole organ.
        synonyms: Other spellings, without a side; case, punctuation and word order don't matter.
        tolerance_mm: Published tolerance, or None where there is none.
        single_component: Whether the anatomy is one connected piece.
    """

    stem: str
    name: str
    tg263: str
    code: str
    meaning: str
    colours: tuple[Colour, ...]
    volume_range_ml: tuple[float, float]
    synonyms: tuple[str, ...]
    tolerance_mm: float | None = None
    single_component: bool = True

    @property
    def paired(self) -> bool:
        """Whether the row stands for a left and a right organ."""
        return "{}" in self.tg263


# fmt: off
ROWS: tuple[Row, ...] = (
    # Central nervous system
    Row("brainstem", "brainstem", "Brainstem", "15926001", "Brainstem", ((51, 255, 252),), (14, 45),
        ("brain stem", "bstem", "truncus encephali", "Hirnstamm", "hersenstam", "tronc cérébral"), 2.5),
    Row("spinal_cord", "spinal cord", "SpinalCord", "2748008", "Spinal cord", ((185, 202, 255),), (4, 75),
        ("cord", "spine cord", "medulla spinalis", "myelon", "myelum", "Rückenmark", "Rueckenmark", "ruggenmerg",
         "moelle", "moelle épinière"), 2.93),
    Row("spinal_canal", "spinal canal", "SpinalCanal", "61853006", "Spinal canal", ((191, 247, 255),), (15, 260),
        ("canal", "vertebral canal", "Spinalkanal", "Wirbelkanal", "canalis vertebralis", "canal médullaire"), 1.17),
    Row("brain", "brain", "Brain", "12738006", "Brain", ((255, 52, 208),), (850, 2000),
        ("whole brain", "encephalon", "Gehirn", "Hirn", "hersenen", "cerveau"), 1.01),
    Row("optic_chiasm", "optic chiasm", "OpticChiasm", "244453006", "Optic chiasm", ((148, 174, 82),), (0.08, 1.6),
        ("chiasm", "chiasma", "optic chiasma", "opt chiasm", "chiasma opticum", "chiasma optique"), 2.5),
    Row("pituitary", "pituitary gland", "Pituitary", "56329008", "Pituitary", ((175, 35, 137),), (0.08, 1.8),
        ("pituitary", "glnd pituitary", "pituitary glnd", "hypophysis", "Hypophyse")),
    Row("temporal_lobe", "temporal lobe", "Lobe_Temporal_{}", "78277001", "Temporal lobe",
        ((255, 184, 255), (166, 95, 166)), (30, 150),
        ("temporal lobes", "temp lobe", "temp lobes", "lobus temporalis", "Temporallappen", "lobe temporal")),

    # Eye and orbit
    Row("optic_nerve", "optic nerve", "OpticNrv_{}", "18234004", "Optic nerve",
        ((255, 237, 151), (184, 175, 137)), (0.15, 2.2),
        ("optic nerves", "opt nerve", "opt nrv", "optic n", "nrv optic", "n opticus", "nervus opticus", "Sehnerv",
         "oogzenuw", "nerf optique"), 2.5),
    Row("eye", "eye", "Eye_{}", "81745001", "Eye", ((49, 156, 243), (31, 99, 154)), (4, 15),
        ("orbit", "eyeball", "eye ball", "globe", "bulbus", "bulbus oculi", "Auge", "oog", "œil"), 1.65),
    Row("lens", "eye lens", "Lens_{}", "78076003", "Lens", ((112, 171, 168), (66, 101, 98)), (0.05, 0.6),
        ("lens", "lens of eye", "lens crystalline", "Linse", "Augenlinse", "cristallin"), 0.98),
    Row("lacrimal_gland", "lacrimal gland", "Glnd_Lacrimal_{}", "13561001", "Lacrimal gland",
        ((191, 255, 217), (116, 193, 147)), (0.15, 2),
        ("lacrimal", "lacrimal glnd", "lachrymal gland", "tear gland", "glandula lacrimalis", "Tränendrüse",
         "Traenendruese", "traanklier"), 2.5),
    Row("eye_anterior", "eye, anterior segment", "Eye_A{}", "81745001", "Eye", ((65, 126, 255), (46, 90, 181)),
        (0.15, 4),
        ("eye a", "anterior eye", "anterior segment eye", "anterior eyeball segment",
         "anterior segment of the eyeball")),
    Row("eye_posterior", "eye, posterior segment", "Eye_P{}", "81745001", "Eye", ((44, 219, 154), (13, 131, 87)),
        (3, 14),
        ("eye p", "posterior eye", "posterior segment eye", "posterior eyeball segment",
         "posterior segment of the eyeball")),

    # Ear and jaw
    Row("inner_ear", "inner ear", "Ear_Internal_{}", "22945000", "Inner ear", ((177, 144, 255), (152, 136, 190)),
        (0.1, 5), ("internal ear", "auris interna", "Innenohr", "binnenoor", "oreille interne")),
    Row("middle_ear", "middle ear", "Ear_Middle_{}", "25342003", "Middle ear", ((82, 51, 255), (94, 73, 210)),
        (0.2, 14), ("mid ear", "auris media", "Mittelohr", "middenoor", "oreille moyenne")),
    Row("cochlea", "cochlea", "Cochlea_{}", "80169004", "Cochlea", ((207, 51, 255), (150, 37, 184)), (0.012, 0.8),
        ("cochlear", "Schnecke", "slakkenhuis", "cochlée"), 1.25),
    Row("tmj", "temporomandibular joint", "Joint_TM_{}", "53620006", "Temporomandibular joint",
        ((255, 130, 51), (168, 86, 34)), (0.3, 14),
        ("tmj", "tm joint", "tmjoint", "t m joint", "temporo mandibular joint", "jaw joint", "Kiefergelenk",
         "kaakgewricht")),
    Row("mandible", "mandible", "Bone_Mandible", "91609006", "Mandible", ((255, 186, 51),), (30, 125),
        ("mandible bone", "mandibula", "lower jaw", "Unterkiefer", "onderkaak", "mandibule"), 1.01),
    Row("mandible", "half of the mandible", "Bone_Mandible_{}", "91609006", "Mandible",
        ((255, 255, 52), (190, 190, 19)), (11, 70),
        ("mandible", "mandible bone", "mandibula", "hemimandible", "half mandible", "lower jaw", "Unterkiefer",
         "onderkaak", "mandibule"), 1.01),

    # Salivary glands and mouth
    Row("parotid", "parotid gland", "Parotid_{}", "45289007", "Parotid gland", ((175, 139, 39), (112, 94, 42)), (8, 65),
        ("parotid", "glnd parotid", "parotid glnd", "parotis", "glandula parotis", "glandula parotidea",
         "Ohrspeicheldrüse", "Ohrspeicheldruese", "oorspeekselklier", "parotide"), 2.85),
    Row("submandibular", "submandibular gland", "Glnd_Submand_{}", "54019009", "Submandibular gland",
        ((118, 193, 39), (60, 106, 11)), (2.2, 22),
        ("submandibular", "submandibula", "submandibular glnd", "glnd submandibular", "submand gland", "submand",
         "submand gl", "submandibularis", "submaxillary gland", "smg", "glandula submandibularis",
         "sous maxillaire", "submandibulaire"), 2.02),
    Row("oral_cavity", "oral cavity", "Cavity_Oral", "74262004", "Oral cavity", ((140, 105, 122),), (20, 260),
        ("mouth", "cavum oris", "Mundhöhle", "Mundhoehle", "mondholte", "cavité orale", "cavité buccale")),
    Row("buccal_mucosa", "buccal mucosa", "BuccalMucosa", "16811007", "Buccal mucosa", ((181, 36, 51),), (2, 60),
        ("mucosa buccal", "Wangenschleimhaut"), single_component=False),
    Row("lips", "lips", "Lips", "81083006", "Both lips", ((255, 59, 127),), (3, 70),
        ("lip", "Lippen", "lippe", "lèvres"), single_component=False),

    # Throat, neck and chest
    Row("larynx", "larynx", "Larynx", "4596009", "Larynx", ((33, 164, 56),), (7, 70), ("Kehlkopf", "strottenhoofd")),
    Row("supraglottic_larynx", "supraglottic larynx", "Larynx_SG", "119255006", "Supraglottis", ((51, 255, 132),),
        (2, 45), ("supraglottis", "larynx supraglottic", "supraglottic")),
    Row("glottis", "glottis", "Glottis", "1307006", "Glottis", ((51, 255, 53),), (0.3, 12),
        ("glottic area", "glottic larynx", "larynx glottic")),
    Row("arytenoids", "arytenoid cartilages", "Arytenoid", "77578007", "Arytenoid cartilage", ((255, 54, 51),),
        (0.05, 4), ("arytenoids", "arytenoid cartilage", "Aryknorpel"), single_component=False),
    Row("cricopharyngeus", "cricopharyngeus", "Cricopharyngeus", "28276008",
        "Cricopharyngeal part of inferior constrictor pharyngeus muscle", ((181, 255, 151),), (0.3, 15),
        ("cricopharyngeal inlet", "cricopharyngeal muscle", "crico")),
    Row("esophagus", "esophagus", "Esophagus", "32849002", "Esophagus", ((255, 122, 110),), (3.5, 60),
        ("oesophagus", "Ösophagus", "Speiseröhre", "Speiseroehre", "slokdarm", "œsophage")),
    Row("esophagus_cervical", "cervical esophagus", "Esophagus_S", "60075002", "Cervical esophagus", ((255, 179, 125),),
        (0.8, 30), ("cervical oesophagus", "esophagus cerv", "oesophagus cerv", "upper esophagus", "upper oesophagus")),
    Row("thyroid", "thyroid gland", "Glnd_Thyroid", "69748006", "Thyroid", ((177, 255, 51),), (2.5, 110),
        ("thyroid", "thyroid glnd", "glandula thyreoidea", "glandula thyroidea", "Schilddrüse", "Schilddruese",
         "schildklier", "thyroïde"), single_component=False),
    Row("carotid_artery", "carotid artery", "A_Carotid_{}", "69105007", "Carotid artery",
        ((255, 168, 182), (180, 91, 106)), (0.8, 25),
        ("carotid", "artery carotid", "arteria carotis", "a carotis", "carotis", "carotide")),
    Row("lung", "lung", "Lung_{}", "39607008", "Lung", ((51, 208, 253), (18, 143, 179)), (350, 4500),
        ("pulmo", "Lunge", "long", "poumon"), 2.42),
)
# fmt: on
