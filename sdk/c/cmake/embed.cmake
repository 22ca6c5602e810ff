# Writes a text file as a C array.
file(READ ${INPUT} bytes HEX)
string(LENGTH "${bytes}" digits)
math(EXPR size "${digits} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE ${OUTPUT} "#include \"schema.h\"\n\nconst char mon_schema_text[] = {${bytes}0};\nconst size_t mon_schema_length = ${size};\n")
