use sluice_repo::AceKind;
