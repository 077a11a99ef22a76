"""Names of languages: English names and the codes of ISO 639-1."""

from __future__ import annotations

import difflib

from bertjobs.errors import InputError

# The name first, then its codes and other names. The names of languages with Punkt's parameters are Punkt's.
_TABLE = """
abkhazian ab / afar aa / afrikaans af / akan ak twi tw / albanian sq / amharic am / arabic ar / aragonese an /
armenian hy / assamese as / avaric av / avestan ae / aymara ay / azerbaijani az azeri / bambara bm / bashkir ba /
basque eu / belarusian be / bengali bn bangla / bihari bh / bislama bi / bosnian bs / breton br / bulgarian bg /
burmese my myanmar / catalan ca valencian / cebuano ceb / chamorro ch / chechen ce / chichewa ny nyanja chewa /
chinese zh mandarin cantonese yue / church-slavonic cu / chuvash cv / cornish kw / corsican co / cree cr /
croatian hr / czech cs / danish da / dhivehi dv divehi maldivian / dutch nl flemish / dzongkha dz / english en /
esperanto eo / estonian et / ewe ee / faroese fo / fijian fj / finnish fi / french fr / frisian fy /
fulah ff fula fulani / gaelic gd scottish-gaelic / galician gl / ganda lg luganda / georgian ka / german de /
greek el / greenlandic kl / guarani gn / gujarati gu / haitian ht haitian-creole / hausa ha / hebrew he iw /
herero hz / hindi hi / hiri-motu ho / hungarian hu / icelandic is / ido io / igbo ig / indonesian id /
interlingua ia / interlingue ie / inuktitut iu / inupiaq ik / irish ga / italian it / japanese ja / javanese jv /
kannada kn / kanuri kr / kashmiri ks / kazakh kk / khmer km cambodian / kikuyu ki / kinyarwanda rw /
kirundi rn rundi / komi kv / kongo kg / korean ko / kuanyama kj / kurdish ku kurmanji sorani ckb / kyrgyz ky kirghiz /
lao lo laotian / latin la / latvian lv / limburgish li / lingala ln / lithuanian lt / luba-katanga lu /
luxembourgish lb / macedonian mk / malagasy mg / malay ms / malayalam ml / maltese mt / manx gv / maori mi /
marathi mr / marshallese mh / mongolian mn / nauru na / navajo nv / ndonga ng / nepali ne / north-ndebele nd /
northern-sami se / norwegian no nb nn bokmal nynorsk / occitan oc / odia or oriya / ojibwa oj / oromo om /
ossetian os / pali pi / pashto ps pushto / persian fa farsi dari / polish pl / portuguese pt / punjabi pa /
quechua qu / romanian ro moldovan / romansh rm / russian ru / samoan sm / sango sg / sanskrit sa / sardinian sc /
serbian sr serbo-croatian sh / shona sn / sichuan-yi ii nuosu / sindhi sd / sinhala si sinhalese / slovak sk /
slovene sl slovenian / somali so / sotho st sesotho / south-ndebele nr / spanish es castilian / sundanese su /
swahili sw / swati ss / swedish sv / tagalog tl filipino fil / tahitian ty / tajik tg / tamil ta / tatar tt /
telugu te / thai th / tibetan bo / tigrinya ti / tonga to tongan / tsonga ts / tswana tn setswana / turkish tr /
turkmen tk / ukrainian uk / urdu ur / uyghur ug uighur / uzbek uz / venda ve / vietnamese vi / volapuk vo /
walloon wa / welsh cy / wolof wo / xhosa xh / yiddish yi / yoruba yo / zhuang za / zulu zu
"""
_NAMES = {word: words[0] for words in map(str.split, _TABLE.split("/")) for word in words}
_ALIKE = 0.75  # from 0 to 1; "germn" is 0.91 like "german"
_HINT = (
    "an English name such as 'german', or an ISO 639-1 code such as 'de'; for a language without a code leave it out "
    "and add --sentences unicode"
)


def language_name(given: str) -> str:
    """The name of a language that is given by a name or a code, in any case and with or without a region (``pt-BR``).

    Raises:
        InputError: it is not known; names the one that is spelled most alike, if one is.
    """
    word = given.strip().lower().replace("_", "-").replace(" ", "-")
    if name := _NAMES.get(word) or _NAMES.get(word.partition("-")[0]):
        return name
    close = difflib.get_close_matches(word, [each for each in _NAMES if len(each) > 3], n=1, cutoff=_ALIKE)
    hint = f"did you mean {close[0]!r}?" if close else _HINT
    raise InputError(f"unknown language {given!r}", where="--language", hint=hint)
