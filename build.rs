//! Unpacks and compresses Swagger UI at build time, so that the program can serve it without internet access.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "swagger-ui")]
    swagger_ui::unpack();
}

#[cfg(feature = "swagger-ui")]
mod swagger_ui {
    use std::{
        env, fs,
        io::{Cursor, Read, Write},
        path::Path,
    };

    use flate2::{Compression, write::GzEncoder};
    use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
    use zip::ZipArchive;

    const FILES: [&str; 2] = ["swagger-ui-bundle.js", "swagger-ui.css"];

    pub(crate) fn unpack() {
        let out_dir = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
        let out_dir = Path::new(&out_dir);
        let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))
            .expect("the vendored Swagger UI is a zip archive");
        for file in FILES {
            let name = archive
                .file_names()
                .find(|name| name.ends_with(&format!("/dist/{file}")))
                .unwrap_or_else(|| panic!("Swagger UI has no dist/{file}"))
                .to_owned();
            let mut content = Vec::new();
            archive
                .by_name(&name)
                .and_then(|mut entry| Ok(entry.read_to_end(&mut content)?))
                .unwrap_or_else(|error| panic!("{name}: {error}"));

            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder
                .write_all(&content)
                .expect("writing to memory cannot fail");
            let compressed = encoder.finish().expect("writing to memory cannot fail");
            fs::write(out_dir.join(file), content).expect("OUT_DIR is writable");
            fs::write(out_dir.join(format!("{file}.gz")), compressed).expect("OUT_DIR is writable");
        }
    }
}
