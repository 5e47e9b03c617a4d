"""How well scans in scripts that RapidOCR's model does not know are read, with Tesseract's data and without.

    .venv/bin/python tests/benchmarks/scripts.py

Article 1 of the Universal Declaration of Human Rights on a page, as a noisy scan of 200 dpi. Without: as the engine is where none
of that data is installed. How like the text what is read is, 0 to 1, as difflib has it; ends of lines count as spaces.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from scans_kit import scan_of  # noqa: E402

from tasks.engines.layout import scripts  # noqa: E402
from tasks.engines.layout.choice import Way  # noqa: E402
from tasks.engines.layout.ocr import Reader  # noqa: E402
from tasks.engines.layout.page import PageReader  # noqa: E402

TEXTS = {
    "ara": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح الإخاء.",
    "ben": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। তাঁদের বিবেক এবং বুদ্ধি আছে; সুতরাং সকলেরই একে অপরের প্রতি ভ্রাতৃত্বসুলভ মনোভাব নিয়ে আচরণ করা উচিত।",  # noqa: E501
    "ell": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι με λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης.",  # noqa: E501
    "heb": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך חובה עליהם לנהוג איש ברעהו ברוח של אחווה.",  # noqa: E501
    "hin": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",  # noqa: E501
    "kor": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았으며 서로 형제애의 정신으로 행동하여야 한다.",  # noqa: E501
    "rus": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",  # noqa: E501
    "tam": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும், உரிமைகளிலும் சமமானவர்கள், அவர்கள் நியாயத்தையும் மனச்சாட்சியையும் இயற்பண்பாகப் பெற்றவர்கள்.",  # noqa: E501
    "tha": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
}


@contextmanager
def without_data() -> Iterator[None]:
    """As on a machine that has none."""
    folders = scripts.FOLDERS
    with tempfile.TemporaryDirectory() as empty:
        scripts.FOLDERS = (empty,) * len(folders)  # type: ignore[misc,assignment]
        scripts.data.cache_clear()
        try:
            yield
        finally:
            scripts.FOLDERS = folders  # type: ignore[misc]
            scripts.data.cache_clear()


def similarity(text: str, reader: Reader) -> tuple[float, Sequence[str]]:
    """How like the text what is read of its scan is, 0 to 1; the page's notes."""
    with scan_of([text]) as document:
        read = PageReader(reader, 150, 100_000_000).read(document[0], Way.LAYOUT)
    found = " ".join(" ".join(block.text for block in read.blocks).split())
    return SequenceMatcher(a=text, b=found, autojunk=False).ratio(), read.notes


def main() -> None:
    from tasks.engines.layout import threads

    threads.bound(1)
    import pymupdf.layout  # noqa: F401  gives pages their layout

    reader = Reader()
    installed = (scripts.data() or (None, ()))[1]
    print("| data | with | without | warned of without |\n| --- | --- | --- | --- |")
    for language, text in TEXTS.items():
        own = f"{similarity(text, reader)[0]:.3f}" if language in installed else "not installed"
        with without_data():
            bare, notes = similarity(text, reader)
        print(f"| {language} | {own} | {bare:.3f} | {'; '.join(notes) or '-'} |", flush=True)


if __name__ == "__main__":
    main()
