// Tiny data in the forms in which the real ones are published, for tests of commands and of the documentation.
#pragma once

#include <filesystem>

namespace tern::test {

/// Writes aclImdb_v1.tar.gz, cifar-10-binary.tar.gz and lra_release.gz (where this build reads archives), the
/// folder aclImdb, the tables imdb_train.tsv and imdb_test.tsv, and the folder acl_pairs.
void write_published_data(const std::filesystem::path& folder);

}  // namespace tern::test
