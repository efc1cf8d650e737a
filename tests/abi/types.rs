//! Declarations in Rust as the C types that they stand for.
//!
//! ctest compares sizes and addresses, and not what a function takes. Here every function becomes an
//! assertion that its type is the one that C's own declaration has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{
    FnArg, ForeignItem, ForeignItemFn, GenericArgument, Item, PathArguments, ReturnType, Type,
    TypePath,
};

/// Everything that a file declares.
pub struct Declared {
    functions: Vec<ForeignItemFn>,
    aliases: BTreeMap<String, Type>,
    structs: BTreeMap<String, syn::ItemStruct>,
}

/// The names `module::name` that are called in the files of a directory.
pub fn called_of(module: &str, dir: &Path) -> BTreeSet<String> {
    let mut called = BTreeSet::new();
    for entry in fs::read_dir(dir).expect("a directory of source") {
        let path = entry.expect("a directory of source").path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("source");
        for rest in text.split(&format!("{module}::")).skip(1) {
            let name: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            called.insert(name);
        }
    }
    called
}

impl Declared {
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("source");
        let file = syn::parse_file(&text).expect("source in Rust");
        let mut found =
            Self { functions: Vec::new(), aliases: BTreeMap::new(), structs: BTreeMap::new() };
        for item in file.items {
            match item {
                Item::ForeignMod(block) => {
                    found.functions.extend(block.items.into_iter().filter_map(|item| match item {
                        ForeignItem::Fn(function) => Some(function),
                        _ => None,
                    }));
                }
                Item::Type(alias) => {
                    found.aliases.insert(alias.ident.to_string(), *alias.ty);
                }
                Item::Struct(item) => {
                    found.structs.insert(item.ident.to_string(), item);
                }
                _ => {}
            }
        }
        found
    }

    /// An assertion for each function, and for each alias and structure that C knows; of those in
    /// `only`, if that is given, each of which has to be there.
    pub fn checks(&self, only: Option<&BTreeSet<String>>) -> String {
        let wanted = |name: &str| only.is_none_or(|only| only.contains(name));
        let mut checks = String::new();
        let mut seen = BTreeSet::new();
        for function in &self.functions {
            let name = function.sig.ident.to_string();
            if wanted(&name) {
                let ty = self.function(&function.sig.inputs, &function.sig.output);
                checks += &same(&format!("__typeof__({name})"), &ty, &name);
                seen.insert(name);
            }
        }
        for (name, ty) in self.aliases.iter().filter(|(name, _)| wanted(name)) {
            checks += &same(name, &self.c(ty), name);
            seen.insert(name.clone());
        }
        // Of what C alone knows there is only the name.
        let known = |item: &syn::ItemStruct| item.fields.iter().any(is_named_in_c);
        for (name, item) in self.structs.iter().filter(|(name, item)| wanted(name) && known(item)) {
            checks += &self.structure(name, item);
            seen.insert(name.clone());
        }
        if let Some(only) = only {
            let unseen: Vec<_> = only.difference(&seen).collect();
            assert!(unseen.is_empty(), "not declared, or not in a form that is known: {unseen:?}");
        }
        checks
    }

    /// That every field lies where C's lies and has its type, and that there are no more.
    fn structure(&self, name: &str, item: &syn::ItemStruct) -> String {
        let c_name = struct_name(name);
        let mirror = format!("struct mirror_of_{name}");
        let mut fields = String::new();
        let mut checks = String::new();
        for field in &item.fields {
            let ident = field.ident.as_ref().expect("fields have names").to_string();
            let (ty, array) = match &field.ty {
                Type::Array(array) => {
                    let syn::Expr::Lit(len) = &array.len else {
                        unreachable!("a length is a number")
                    };
                    let syn::Lit::Int(len) = &len.lit else { unreachable!("a length is a number") };
                    (self.c(&array.elem), format!("[{len}]"))
                }
                ty => (self.c(ty), String::new()),
            };
            fields += &format!("    {ty} {ident}{array};\n");
            if !is_named_in_c(field) {
                continue;
            }
            let what = format!("{name}.{ident}");
            checks += &same(
                &format!("__typeof__((({c_name} *)0)->{ident})"),
                &format!("{ty}{array}"),
                &what,
            );
            checks += &format!(
                "_Static_assert(offsetof({c_name}, {ident}) == offsetof({mirror}, {ident}), \"{what}\");\n"
            );
        }
        format!(
            "{mirror} {{\n{fields}}};\n{checks}\
             _Static_assert(sizeof({c_name}) == sizeof({mirror}), \"the size of {name}\");\n"
        )
    }

    fn function<'a>(
        &self,
        inputs: impl IntoIterator<Item = &'a FnArg>,
        output: &ReturnType,
    ) -> String {
        let inputs: Vec<_> = inputs
            .into_iter()
            .map(|input| match input {
                FnArg::Typed(input) => self.c(&input.ty),
                FnArg::Receiver(_) => unreachable!("C has no methods"),
            })
            .collect();
        format!("{} ({})", self.output(output), listed(&inputs))
    }

    fn output(&self, output: &ReturnType) -> String {
        match output {
            ReturnType::Default => "void".to_owned(),
            ReturnType::Type(_, ty) => self.c(ty),
        }
    }

    /// The type in C's words, aliases of this file resolved.
    fn c(&self, ty: &Type) -> String {
        match ty {
            Type::Ptr(pointer) => {
                let constant = if pointer.const_token.is_some() { "const " } else { "" };
                // East of a pointer, `const` is what it points to.
                let inner = self.c(&pointer.elem);
                if inner.ends_with('*') {
                    format!("{inner} {constant}*")
                } else {
                    format!("{constant}{inner} *")
                }
            }
            Type::Tuple(unit) if unit.elems.is_empty() => "void".to_owned(),
            Type::BareFn(function) => {
                let inputs: Vec<_> =
                    function.inputs.iter().map(|input| self.c(&input.ty)).collect();
                format!("{} (*)({})", self.output(&function.output), listed(&inputs))
            }
            Type::Path(path) => self.named(path),
            _ => unreachable!("a type that C has no word for"),
        }
    }

    fn named(&self, path: &TypePath) -> String {
        let last = path.path.segments.last().expect("a path has an end");
        let name = last.ident.to_string();
        if name == "Option"
            && let PathArguments::AngleBracketed(of) = &last.arguments
            && let Some(GenericArgument::Type(ty)) = of.args.first()
        {
            return self.c(ty);
        }
        if let Some(ty) = self.aliases.get(&name) {
            return self.c(ty);
        }
        if self.structs.contains_key(&name) {
            return struct_name(&name);
        }
        let word = match name.as_str() {
            "c_void" => "void",
            "c_char" => "char",
            "c_int" => "int",
            "c_uchar" => "unsigned char",
            "c_uint" => "unsigned int",
            "i32" => "int32_t",
            "i64" => "int64_t",
            "u16" => "uint16_t",
            "u32" => "uint32_t",
            "u64" => "uint64_t",
            "u8" => "uint8_t",
            "bool" => "bool",
            "usize" | "size_t" => "size_t",
            "isize" | "ssize_t" => "ssize_t",
            _ => unreachable!("a type that C has no word for: {name}"),
        };
        word.to_owned()
    }
}

fn listed(inputs: &[String]) -> String {
    if inputs.is_empty() { "void".to_owned() } else { inputs.join(", ") }
}

fn struct_name(name: &str) -> String {
    // As bindgen once wrote them.
    let plain = name.strip_prefix("Struct_").unwrap_or(name);
    // librbd alone has types for them.
    if plain.starts_with("rbd_") { plain.to_owned() } else { format!("struct {plain}") }
}

/// What begins with an underscore has no name in C, or none that can be asked about, as a field of bits:
/// that what follows it lies right is all that there is to see.
pub fn is_named_in_c(field: &syn::Field) -> bool {
    field.ident.as_ref().is_some_and(|ident| !ident.to_string().starts_with('_'))
}

fn same(c: &str, ours: &str, what: &str) -> String {
    format!("_Static_assert(__builtin_types_compatible_p({c}, {ours}), \"{what}: not {ours}\");\n")
}
