//! `define_swimlane!`.

/// Makes a lane of one's own: a type of this name that is a
/// [`LaneMarker`](crate::routing::LaneMarker), and its pairs in the matrix.
///
/// ```
/// use sidelane::routing::{
///     Internal, Lane, LaneMarker, RouteTable, RoutingConfig, Rule, ServiceRouting,
/// };
/// use sidelane::{define_service_routing, define_swimlane};
///
/// define_swimlane!(
///     /// What the auditors read: a lot, and nobody waits for it.
///     pub Audit,
///     id = 16,
///     connection = [Internal],
///     window = 256 * 1024,
///     max_streams = 100,
///     dscp = 8,
/// );
///
/// define_service_routing!(
///     Journal,
///     service = "audit.v1.Journal",
///     category = Worker,
///     connection = Internal,
///     swimlane = Audit,
///     secure = true,
///     persistent = true,
///     load_balancing = LeastConnections,
/// );
///
/// static LANES: &[Lane] = &[Audit::LANE];
/// static RULES: &[Rule] = &[Journal::RULE];
/// pub static ROUTES: RouteTable = RouteTable::new(RULES).with_lanes(LANES);
///
/// assert_eq!(Audit::NAME, "audit");
/// assert_eq!(RoutingConfig::<Internal, Audit>::new().lane().id(), 16);
/// ```
///
/// | field | what it is |
/// | --- | --- |
/// | `id` | its number, 16 to 65,535, unique in the mesh |
/// | `connection` | the class with which it goes, as a type, or several in brackets |
/// | `window` | bytes that one stream may send before it is read: 16 KiB to 64 MiB |
/// | `max_streams` | calls open at once on one connection: 1 to 65,536 |
/// | `name` | as rules, headers and metrics have it; the type's in lower case: `BulkLoad` is `bulk_load` |
/// | `connection_window` | bytes that all streams may send before they are read: 4 windows at least |
/// | `max_connections` | connections to one peer, 1 to 16: 1 |
/// | `max_waiting` | calls that wait for a connection, 1 to 65,536: `max_streams` |
/// | `dscp` | of every packet, 0 to 63: 0 |
/// | `priority` | of the socket, 0 to 6: 0 |
///
/// The fields come in any order; those from `name` on may be left out. A number or name of
/// Sidelane's own, and a figure out of bounds, do not compile; two lanes of one number or name do
/// not compile in one [`RouteTable`](crate::routing::RouteTable).
///
/// ```compile_fail
/// use sidelane::define_swimlane;
/// use sidelane::routing::Internal;
///
/// // error: numbers of lanes below 16 are Sidelane's own
/// define_swimlane!(Audit, id = 3, connection = [Internal], window = 65_536, max_streams = 100);
/// ```
#[macro_export]
macro_rules! define_swimlane {
    ($(#[$meta:meta])* $vis:vis $name:ident, $($fields:tt)*) => {
        $crate::define_swimlane! {
            @read [$(#[$meta])* $vis $name] [] [] [] [] [] [] [] [] [] []; $($fields)*,
        }
    };

    // One field after the other goes into its slot; the slots stand in the order of the arms.
    (@read $n:tt [$($x:tt)*] $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt;
        id = $v:expr, $($rest:tt)*) => { $crate::define_swimlane! {
        @read $n [$($x)* ($v)] $b $c $d $e $f $g $h $i $j; $($rest)*
    } };
    (@read $n:tt $a:tt [$($x:tt)*] $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt;
        connection = [$($v:ty),* $(,)?], $($rest:tt)*) => { $crate::define_swimlane! {
        @read $n $a [$($x)* ([$($v),*])] $c $d $e $f $g $h $i $j; $($rest)*
    } };
    (@read $n:tt $a:tt [$($x:tt)*] $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt;
        connection = $v:ty, $($rest:tt)*) => { $crate::define_swimlane! {
        @read $n $a [$($x)* ([$v])] $c $d $e $f $g $h $i $j; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt [$($x:tt)*] $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt;
        window = $v:expr, $($rest:tt)*) => { $crate::define_swimlane! {
        @read $n $a $b [$($x)* ($v)] $d $e $f $g $h $i $j; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt [$($x:tt)*] $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt;
        max_streams = $v:expr, $($rest:tt)*) => { $crate::define_swimlane! {
        @read $n $a $b $c [$($x)* ($v)] $e $f $g $h $i $j; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt [$($x:tt)*] $f:tt $g:tt $h:tt $i:tt $j:tt;
        name = $v:expr, $($rest:tt)*) => { $crate::define_swimlane! {
        @read $n $a $b $c $d [$($x)* ($v)] $f $g $h $i $j; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt [$($x:tt)*] $g:tt $h:tt $i:tt $j:tt;
        connection_window = $v:expr, $($rest:tt)*) => { $crate::define_swimlane! {
        @read $n $a $b $c $d $e [$($x)* ($v)] $g $h $i $j; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt [$($x:tt)*] $h:tt $i:tt $j:tt;
        max_connections = $v:expr, $($rest:tt)*) => { $crate::define_swimlane! {
        @read $n $a $b $c $d $e $f [$($x)* ($v)] $h $i $j; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt [$($x:tt)*] $i:tt $j:tt;
        max_waiting = $v:expr, $($rest:tt)*) => { $crate::define_swimlane! {
        @read $n $a $b $c $d $e $f $g [$($x)* ($v)] $i $j; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt [$($x:tt)*] $j:tt;
        dscp = $v:expr, $($rest:tt)*) => { $crate::define_swimlane! {
        @read $n $a $b $c $d $e $f $g $h [$($x)* ($v)] $j; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt [$($x:tt)*];
        priority = $v:expr, $($rest:tt)*) => { $crate::define_swimlane! {
        @read $n $a $b $c $d $e $f $g $h $i [$($x)* ($v)]; $($rest)*
    } };

    // All is read: the last comma may have been there already.
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt; $(,)?) => {
        $crate::define_swimlane! { @whole $n id $a, connection $b, window $c, max_streams $d, name $e, connection_window $f, max_connections $g, max_waiting $h, dscp $i, priority $j, }
    };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt;
        $field:ident = $($rest:tt)*) => { ::core::compile_error!(::core::concat!(
        "define_swimlane!: `", ::core::stringify!($field), "` is no field; fields are id, connection, window, max_streams, name, connection_window, max_connections, max_waiting, dscp, priority"
    )); };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt;
        $first:tt $($rest:tt)*) => { ::core::compile_error!(::core::concat!(
        "define_swimlane!: a field is written `name = value`, and a comma follows; it goes wrong \
         at `", ::core::stringify!($first), "`"
    )); };

    // What is missing, in the order of the slots, then what is there twice.
    (@whole $n:tt id [], $($rest:tt)*) => { $crate::define_swimlane!(@missing id); };
    (@whole $n:tt id $a:tt, connection [], $($rest:tt)*) => {
        $crate::define_swimlane!(@missing connection);
    };
    (@whole $n:tt id $a:tt, connection $b:tt, window [], $($rest:tt)*) => {
        $crate::define_swimlane!(@missing window);
    };
    (@whole $n:tt id $a:tt, connection $b:tt, window $c:tt, max_streams [], $($rest:tt)*) => {
        $crate::define_swimlane!(@missing max_streams);
    };
    (@whole $n:tt $($field:ident [$($x:tt)?],)*) => {
        $crate::define_swimlane! { @make $n $($field [$($x)?],)* }
    };
    (@whole $n:tt $($field:ident $x:tt,)*) => {
        $($crate::define_swimlane! { @once $field $x })*
    };
    (@missing $field:ident) => { ::core::compile_error!(::core::concat!(
        "define_swimlane!: `", ::core::stringify!($field), "` is missing; every lane says id, \
         connection, window, max_streams"
    )); };
    (@once $field:ident [$($x:tt)?]) => {};
    (@once $field:ident $x:tt) => { ::core::compile_error!(::core::concat!(
        "define_swimlane!: `", ::core::stringify!($field), "` is given more than once"
    )); };

    (@make [$(#[$meta:meta])* $vis:vis $marker:ident]
        id [($id:expr)],
        connection [([$($class:ty),*])],
        window [($window:expr)],
        max_streams [($max_streams:expr)],
        name [$(($name:expr))?],
        connection_window [$(($connection_window:expr))?],
        max_connections [$(($max_connections:expr))?],
        max_waiting [$(($max_waiting:expr))?],
        dscp [$(($dscp:expr))?],
        priority [$(($priority:expr))?],
    ) => {
        $(#[$meta])*
        #[doc = "\n\nA lane, as a type."]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        $vis struct $marker;

        const _: () = {
            const BOUNDS: $crate::routing::__private::LaneBounds = {
                #[allow(unused_mut)]
                let mut bounds =
                    $crate::routing::__private::LaneBounds::new($window, $max_streams);
                $(bounds.connection_window = $connection_window;)?
                $(bounds.max_connections = $max_connections;)?
                $(bounds.max_waiting = $max_waiting;)?
                $(bounds.dscp = $dscp;)?
                $(bounds.priority = $priority;)?
                bounds
            };
            const DEFINITION: $crate::routing::__private::LaneDefinition =
                $crate::routing::__private::LaneDefinition {
                    id: $id,
                    name: $crate::__name_of_marker!($marker $($name)?),
                    classes: &[$(<$class as $crate::routing::ConnectionMarker>::CLASS),*],
                    bounds: $crate::routing::__private::Option::Some(BOUNDS),
                };
            // What cannot be is an error here, used or not.
            const LANE: $crate::routing::Lane = $crate::routing::Lane::define(&DEFINITION);

            impl $crate::routing::__private::Opened for $marker {}
            impl $crate::routing::LaneMarker for $marker {
                const LANE: $crate::routing::Lane = LANE;
            }
            $(
                impl $crate::routing::__private::Legal<$marker> for $class {}
                impl $crate::routing::ValidRoutingMatrix<$marker> for $class {}
                const _: () = ::core::assert!(
                    <$class as $crate::routing::ConnectionMarker>::CLASS.allows(LANE)
                );
            )*
        };
    };

    ($($other:tt)*) => { ::core::compile_error!(
        "define_swimlane! begins with the name of the type, then its fields: \
         `define_swimlane!(Audit, id = 16, …)`"
    ); };
}

/// The name of a lane or a class: that given, or the type's in lower case.
#[doc(hidden)]
#[macro_export]
macro_rules! __name_of_marker {
    ($marker:ident $name:expr) => {
        $name
    };
    ($marker:ident) => {{
        const TYPE: &str = ::core::stringify!($marker);
        const LENGTH: usize = $crate::routing::__private::snake_length(TYPE);
        const BYTES: [u8; LENGTH] = $crate::routing::__private::snake::<LENGTH>(TYPE);
        $crate::routing::__private::text(&BYTES)
    }};
}
