#include "app/commands.h"

int main(int count, char** values) { return tern::app::run({values + 1, values + count}); }
